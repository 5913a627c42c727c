"""The mini model's own byte-level BPE: every text is representable, digits come in threes so that a number is copied in few steps, and the fixed parts of the wire formats are one token each."""

import json
from pathlib import Path

import yaml
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from csproto.minimodel.seeds import all_lines, seeds
from csproto.policy import ACTIONS, RULE_IDS
from csproto.settings import DATA
from csproto.triage import Act, Intent

VOCABULARY = 7168
LONGEST_TOKEN = 12  # in bytes: four Chinese characters; longer ones would read whole phrases and generalise badly
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = SPECIAL[2]
# Letters, Chinese, digits in threes, other marks; spaces go with the word after them.
SPLIT = Regex(r" ?[A-Za-z]+|\d{1,3}|[\u3400-\u9fff]+|\n|\s+(?!\S)| ?[^\sA-Za-z\d\u3400-\u9fff]|\s+")
CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
FACT_KEYS = (
    "order",
    "item",
    "window",
    "deadline",
    "date",
    "amount",
    "state",
    "kind",
    "carrier",
    "tracking",
    "orders",
    "address",
    "ticket",
)


def wire_tokens() -> list[str]:
    """The fixed pieces of triage and brief: `{"intent":"invoice"` and the like."""
    triage = [f'{{"intent":"{i}"' for i in Intent] + [f',"act":"{a}"' for a in Act]
    triage += [',"order_id":"', ',"reason":"', ',"address":"', ',"more":["'] + [f'"{i}"' for i in Intent]
    briefs = (
        [f'{{"action":"{a}"' for a in sorted(ACTIONS)]
        + [f',"rule":"{r}"' for r in sorted(RULE_IDS)]
        + [',"lang":"zh"', ',"lang":"en"']
        + [f',"{k}":"' for k in FACT_KEYS]
    )
    return triage + briefs


def train() -> Tokenizer:
    """The tokenizer, learnt from the seeds and the wordings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(wire_tokens()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in wire_tokens()])
    return tokenizer


def _texts() -> list[str]:
    replies = yaml.safe_load((DATA / "replies.yaml").read_text(encoding="utf-8"))
    wordings = [
        text
        for rule in (*replies["rules"].values(), *replies["small_talk"].values())
        for language in ("zh", "en")
        for text in rule[language]
    ]
    common = [c for language in ("zh", "en") for c in seeds(language)["items"]]
    numbers = [f"{n:03d}" for n in range(1000)] * 200  # often enough that every one becomes a token
    return all_lines() + wordings * 3 + common + numbers


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write it as transformers and SGLang read it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": SPECIAL[0],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
