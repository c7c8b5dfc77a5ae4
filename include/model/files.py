"""The names of a model's files, as transformers writes them."""

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# What transformers reads of a decoder model and its tokenizer besides the weights.
SMALL_FILES = (
    CONFIG_FILE, GENERATION_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.json", CHAT_TEMPLATE_FILE,
)  # fmt: skip
TOKENIZER_FILES = frozenset({TOKENIZER_FILE, "tokenizer.model", "vocab.json"})
