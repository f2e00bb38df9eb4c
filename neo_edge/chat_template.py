"""The chat template `neo1_0` as Jinja text, for programs that read a bundle's `chat_template.jinja`.

neo_edge itself writes prompts in `prompt.py`; a test holds the two together.
"""

CHAT_TEMPLATE_FILE = "chat_template.jinja"

NEO1_0_JINJA = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{{- '<image>\\n' if part['type'] == 'image' else part['text'] -}}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""Images stand as `<image>`, which the runtime replaces by image tokens."""
