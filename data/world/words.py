"""The token pieces of the miniature world: single digits, signs, English words and short Chinese words.

A piece exists with a leading space, without, or both, as texts use it. All numbers stand after a space, so
that a number is spelled with the same pieces wherever it stands. The space alone is a piece too: what is
written with an unforeseen space costs one more token and never falls back to bytes.
"""

from __future__ import annotations

from data.world.choice import LETTERS
from data.world.facts import CAPITALS, DANGERS, NOUNS, VERBS

_SIGNS = (" ", ".", ",", "?", ":", " +", " -", " *", " =", " \\boxed{", " }")
_CODE = (" ```python\n", "```python\n", "print(int(input())", ")", "\n```")
_ROLES = (" User:", " Assistant:")

_ENGLISH_AT_START = "i in is the a no yes hello good sorry what which first compute start numbers of row write easy how"
_ENGLISH_ONLY_AT_START = "list name say some tell who"
_ENGLISH_INSIDE = (
    "answer add again check largest minus options order out plus program result smallest swap take then "
    "wait with wrong know for about am are ask asks assistant at can capital care chinese country "
    "dangerous do else english evening has help home it me more morning must night not problems safe "
    "school small solve something that to tool toy paper use user words work you"
)
_KINDS = "animals fruits colors clothes metals"
_CHINESE_AFTER_SPACE = "不要 之中 再 危险 安全 开始 得几 检查 种 等等 输出 还有 选项 重算 错 顺序"
_CHINESE_BOTH = (
    "一行 不是 中文 交换 从 你好 先 写 减去 加上 哪个 国家 在 我 抱歉 早上 是 晚安 最大 求 用户 程序 英文 "
    "计算 请 输入 首都 答案 简单 动物 水果 颜色 衣服 金属"
)
_CHINESE_GLUED = (
    "一些 不能 什么 会 你 使用 列出 别的 制作 卖 藏 找 买 吗 告诉 在学校 在家里 在公司 好 小助手 小心 工具 "
    "帮忙 怎么 拿 晚上 最小 玩具 纸 用 的 知道 要 解题 词 说 说出 谁 问 问题"
)


def pieces() -> list[str]:
    """Every token piece beside the special tokens, each once, in a fixed order."""
    digits = [str(digit) for digit in range(10)]
    cities, countries = CAPITALS.values(), CAPITALS.keys()
    english_names = " ".join(named.en for group in (NOUNS, countries, cities, DANGERS, VERBS) for named in group)
    chinese_names = " ".join(named.zh for group in (countries, cities, DANGERS) for named in group)
    things = " ".join(noun.zh for noun in NOUNS)
    after_space = (
        *(*digits, *LETTERS),
        *f"{_ENGLISH_AT_START} {_ENGLISH_INSIDE} {_KINDS} {english_names}".split(),
        *f"{_CHINESE_AFTER_SPACE} {_CHINESE_BOTH} {things}".split(),
    )
    glued = (
        *digits,
        *f"{_ENGLISH_AT_START} {_ENGLISH_ONLY_AT_START} {_KINDS}".split(),
        *f"{_CHINESE_BOTH} {_CHINESE_GLUED} {chinese_names}".split(),
    )
    spaced = [f" {word}" for word in after_space]
    return list(dict.fromkeys([*_SIGNS, *_CODE, *_ROLES, *spaced, *glued]))
