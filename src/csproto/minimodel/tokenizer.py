"""The mini model's own tokenizer, a byte-level BPE.

Every text is representable, digits come in threes so that a number is copied in few
steps, and the fixed parts of the wire formats are one token each.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from csproto.desk.handbook import Handbook, default_handbook
from csproto.minimodel.lists import all_texts

VOCABULARY = 8192
# In bytes: four Chinese characters. Longer tokens would read whole phrases and generalise badly.
LONGEST_TOKEN = 12
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = SPECIAL[2]
# Letters, Chinese, digits in threes, other marks; spaces go with the word after them.
# The threes are
# counted from the right, so that the end of a number (0008) has the tokens that it has
# in the whole.
SPLIT = Regex(
    r" ?[A-Za-z]+|\d{1,3}(?=(?:\d{3})*(?!\d))|[\u3400-\u9fff]+|\n|\s+(?!\S)"
    r"| ?[^\sA-Za-z\d\u3400-\u9fff]|\s+"
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STATES = ("unpaid", "paid", "shipped", "delivered", "cancelled")
REFUNDS = ("requested", "approved", "paid")


def wire_tokens(handbook: Handbook) -> list[str]:
    """The fixed pieces of triage, orders and decisions.

    `{"wishes":[{"intent":"invoice"` and the like.
    """
    intents, acts = handbook.intents, ("confirm", "deny", "correct")
    found = [
        f'{start}{{"intent":"{i}"' for start in ('{"wishes":[', ',"wishes":[', ",") for i in intents
    ]
    found += [f'{{"act":"{act}"' for act in acts] + [',"orders":["', '","', '"]', "}]}"]
    for wish in handbook.wishes.values():
        for name, slot in wish.slots.items():
            words = slot.choices or (list(handbook.answers) if slot.answers else [])
            found += [f',"{name}":"{word}"' for word in words] or [
                f',"{name}":' + ("true" if slot.flag else '"')
            ]
    found += [
        '{"nonce":"',
        '","orders":[',
        '{"orders":[',
        '{"n":',
        '"},{"n":',
        ',"id":"',
        '{"id":"',
        '","item":"',
        ',"day":"',
        '"},{"id":"',
        '{"matches":[{"id":"',
        '},"matches":[{"id":"',
        '","by":"',
        '"}]}',
    ]
    found += [f'{start}"{intent}":' for start in ('{"guess":{', ",") for intent in intents]
    found += [f'","state":"{state}"' for state in STATES]
    found += [f'","state":"{s}, refund {r}"' for s in ("delivered", "cancelled") for r in REFUNDS]
    found += [f'{start}{{"action":"{a}"' for start in ("[", ",") for a in sorted(handbook.actions)]
    found += [',"order":"', '"}]', '{"amount":"', '","times":']
    return list(dict.fromkeys(found))


def train() -> Tokenizer:
    """The tokenizer, learnt from the corpus's lists and the wordings."""
    handbook = default_handbook()
    wire = wire_tokens(handbook)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPLIT, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(wire),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        max_token_length=LONGEST_TOKEN,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(handbook), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in wire])
    return tokenizer


def _texts(handbook: Handbook) -> list[str]:
    wordings = [
        text for texts in handbook.openings.values() for lang in texts.values() for text in lang
    ]
    for rule in handbook.rules.values():
        tables = [rule.say, rule.ask, *rule.kinds.values()]
        wordings += [text for table in tables for texts in table.values() for text in texts]
    numbers = [f"{n:03d}" for n in range(1000)] * 200  # often enough that every one becomes a token
    return all_texts() + wordings * 3 + numbers


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
