"""Asks about one picture until you have no more questions; the picture is read by the model once.

python samples/ask.py out/neo-ov-nano.bundle scene.png
"""

from __future__ import annotations

import sys

import neo_edge


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    bundle, picture = sys.argv[1:]
    try:
        with neo_edge.load(bundle) as model, model.chat() as chat:
            while question := input("? ").strip():
                stream = chat.stream(question, [] if chat.turns else [picture])
                for piece in stream:
                    print(piece, end="", flush=True)
                cost = stream.completion.usage
                print(
                    f"\n  [{cost.prompt_tokens - cost.cached_tokens} new tokens, {cost.cached_tokens} kept]"
                )
    except neo_edge.errors.NeoEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (EOFError, KeyboardInterrupt):
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
