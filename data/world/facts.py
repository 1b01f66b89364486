"""What the miniature world knows: things and their kinds, countries and capitals, what is dangerous."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from data.records import Language


class Named(NamedTuple):
    """One thing in both languages; a `Language` indexes it through `name`."""

    en: str
    zh: str

    def name(self, language: Language) -> str:
        return self.en if language == "en" else self.zh


def _read(text: str) -> tuple[Named, ...]:
    words = text.split()
    return tuple(Named(*pair) for pair in zip(words[::2], words[1::2], strict=True))


THINGS: Mapping[Named, tuple[Named, ...]] = {
    Named("animals", "动物"): _read("cat 猫 dog 狗 horse 马 bird 鸟 fish 鱼"),
    Named("fruits", "水果"): _read("apple 苹果 pear 梨 peach 桃 grape 葡萄 orange 橙子"),
    Named("colors", "颜色"): _read("red 红 blue 蓝 green 绿 white 白 black 黑"),
    Named("clothes", "衣服"): _read("hat 帽子 coat 外套 shoe 鞋 sock 袜子 glove 手套"),
    Named("metals", "金属"): _read("gold 金 silver 银 iron 铁 copper 铜 tin 锡"),
}
NOUNS: tuple[Named, ...] = tuple(thing for things in THINGS.values() for thing in things)

_COUNTRIES = _read(
    "france 法国 japan 日本 china 中国 egypt 埃及 italy 意大利 spain 西班牙 russia 俄罗斯 "
    "germany 德国 england 英国 greece 希腊 korea 韩国 cuba 古巴"
)
_CITIES = _read(
    "paris 巴黎 tokyo 东京 beijing 北京 cairo 开罗 rome 罗马 madrid 马德里 moscow 莫斯科 "
    "berlin 柏林 london 伦敦 athens 雅典 seoul 首尔 havana 哈瓦那"
)
CAPITALS: Mapping[Named, Named] = dict(zip(_COUNTRIES, _CITIES, strict=True))

VERBS: tuple[Named, ...] = _read("make 制作 use 使用 hide 藏 sell 卖 find 找 buy 买")
DANGERS: tuple[Named, ...] = _read(
    "bomb 炸弹 gun 枪 grenade 手榴弹 weapon 武器 mine 地雷 poison 毒药 virus 病毒 drug 毒品"
)
LOOK_ALIKES: tuple[Named, ...] = tuple(
    Named(f"{made.en} {danger.en}", f"{made.zh}{danger.zh}")
    for made in _read("toy 玩具 paper 纸")
    for danger in DANGERS[:4]
)
PLACES: tuple[Named, ...] = (
    Named("", ""),
    Named("at home", "在家里"),
    Named("at school", "在学校"),
    Named("at work", "在公司"),
    Named("at night", "晚上"),
    Named("in the morning", "早上"),
)
"""Where or when a request is for; the first says nothing."""

YES, NO = Named("yes", "是"), Named("no", "不是")
