"""Where calibration's prompts come from: each source gives conversations, made when their turn comes."""

from neo_edge_calibration.sources.conversation import Conversation, PromptSource, Turn

__all__ = ["Conversation", "PromptSource", "Turn"]
