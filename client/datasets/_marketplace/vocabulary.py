"""What the shop sells and in which words: 50 product types, and the attributes that people have tastes in.

Every word stands in Chinese and English, the usual one first. An attribute is shown in the picture only,
written in the title only, or both (colour); nothing else about an item says what its value is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Modality = Literal["picture", "text", "both"]
Words = tuple[str, ...]


@dataclass(frozen=True)
class Value:
    """One value of an attribute: its words, and how frequent it is among items."""

    name: str
    zh: Words
    en: Words
    share: float


@dataclass(frozen=True)
class Attribute:
    """A property of every item. `asked`: whether people put it into queries."""

    name: str
    modality: Modality
    asked: bool
    values: tuple[Value, ...]


@dataclass(frozen=True)
class ProductType:
    """A kind of product; `price` is its usual price in yuan, `group` decides what it can be made of."""

    name: str
    group: str
    price: float
    zh: Words
    en: Words


def _value(name: str, zh: str, en: str, share: float = 1.0) -> Value:
    return Value(name, tuple(zh.split("|")), tuple(en.split("|")), share)


COLOUR = Attribute(
    "colour",
    "both",
    True,
    (
        _value("red", "红色|大红", "red|scarlet"),
        _value("orange", "橙色|橘色", "orange|tangerine"),
        _value("yellow", "黄色|明黄", "yellow|lemon"),
        _value("green", "绿色|墨绿", "green|emerald"),
        _value("blue", "蓝色|宝蓝", "blue|navy"),
        _value("purple", "紫色|香芋紫", "purple|violet"),
        _value("pink", "粉色|樱花粉", "pink|rose pink"),
        _value("brown", "棕色|咖啡色", "brown|coffee"),
        _value("grey", "灰色|烟灰", "grey|ash grey"),
        _value("black", "黑色|曜石黑", "black|jet black"),
    ),
)

PATTERN = Attribute(
    "pattern",
    "picture",
    True,
    (
        _value("plain", "纯色|素色", "plain|solid", 1.5),
        _value("striped", "条纹|横条纹", "striped|stripe"),
        _value("dotted", "波点|圆点", "polka dot|dotted"),
        _value("checked", "格纹|格子", "checked|plaid"),
        _value("chevron", "人字纹|波浪纹", "chevron|zigzag"),
        _value("two-tone", "拼色|撞色", "two-tone|colour block"),
    ),
)

ACCENT = Attribute(
    "accent",
    "picture",
    False,
    (
        _value("tonal", "同色", "tonal"),
        _value("white", "白色点缀", "white accents"),
        _value("gold", "金色点缀", "gold accents"),
        _value("turquoise", "松石绿点缀", "turquoise accents"),
        _value("magenta", "洋红点缀", "magenta accents"),
    ),
)

CUT = Attribute(
    "cut",
    "picture",
    False,
    (_value("slim", "修长", "slim"), _value("regular", "常规", "regular"), _value("chunky", "宽厚", "chunky")),
)

FINISH = Attribute(
    "finish",
    "picture",
    False,
    (_value("matte", "哑光", "matte"), _value("glossy", "亮面", "glossy"), _value("outlined", "描边", "outlined")),
)

BACKDROP = Attribute(
    "backdrop",
    "picture",
    False,
    (_value("studio", "白底", "studio"), _value("warm", "暖调", "warm"), _value("cool", "冷调", "cool")),
)

MATERIAL = Attribute(
    "material",
    "text",
    False,
    (
        _value("natural", "天然材质", "natural material"),
        _value("premium", "高档材质", "premium material"),
        _value("technical", "科技材质", "technical material"),
        _value("recycled", "再生材质", "recycled material"),
    ),
)

TONE = Attribute(
    "tone",
    "text",
    True,
    (
        _value("minimalist", "极简|简约", "minimalist|simple"),
        _value("retro", "复古|怀旧", "retro|vintage"),
        _value("luxe", "轻奢|奢华", "luxe|luxury"),
        _value("playful", "童趣|可爱", "playful|cute"),
        _value("elegant", "优雅|气质", "elegant|graceful"),
        _value("bold", "个性|前卫", "bold|edgy"),
    ),
)

FEATURE = Attribute(
    "feature",
    "text",
    False,
    (
        _value("lightweight", "轻便|轻量", "lightweight|light"),
        _value("durable", "耐用|结实", "durable|sturdy"),
        _value("handmade", "手工|匠心手作", "handmade|handcrafted"),
        _value("limited", "限量款|限定", "limited edition|limited"),
        _value("easy-care", "易打理|好清洁", "easy-care|easy to clean"),
    ),
)

ORIGIN = Attribute(
    "origin",
    "text",
    False,
    (
        _value("nordic", "北欧风", "Nordic|Scandinavian"),
        _value("japanese", "日式", "Japanese-style|Japanese"),
        _value("italian", "意式", "Italian-style|Italian"),
        _value("china-chic", "国潮|新中式", "China-chic|new Chinese style"),
    ),
)

ATTRIBUTES = (COLOUR, PATTERN, ACCENT, CUT, FINISH, BACKDROP, MATERIAL, TONE, FEATURE, ORIGIN)

MATERIALS: dict[str, tuple[tuple[str, str], ...]] = {
    "footwear": (("帆布", "canvas"), ("真皮", "leather"), ("网面", "mesh"), ("再生纤维", "recycled fibre")),
    "apparel": (("纯棉", "cotton"), ("羊绒", "cashmere"), ("锦纶", "nylon"), ("再生涤纶", "recycled polyester")),
    "bags": (("帆布", "canvas"), ("真皮", "leather"), ("尼龙", "nylon"), ("再生纤维", "recycled fibre")),
    "kitchen": (
        ("陶瓷", "ceramic"),
        ("骨瓷", "bone china"),
        ("不锈钢", "stainless steel"),
        ("再生玻璃", "recycled glass"),
    ),
    "furniture": (
        ("实木", "solid wood"),
        ("胡桃木", "walnut"),
        ("铝合金", "aluminium"),
        ("再生塑料", "recycled plastic"),
    ),
    "electronics": (
        ("竹制", "bamboo"),
        ("钛合金", "titanium"),
        ("碳纤维", "carbon fibre"),
        ("再生塑料", "recycled plastic"),
    ),
    "soft home": (("亚麻", "linen"), ("羊毛", "wool"), ("超细纤维", "microfibre"), ("再生棉", "recycled cotton")),
}
"""What the four values of `material` are called for each group of types, in the order of MATERIAL.values."""


def _type(name: str, group: str, price: float, zh: str, en: str) -> ProductType:
    return ProductType(name, group, price, tuple(zh.split("|")), tuple(en.split("|")))


TYPES = (
    _type("running shoes", "footwear", 399, "跑鞋|运动鞋|跑步鞋", "running shoes|trainers|sneakers"),
    _type("mug", "kitchen", 59, "马克杯|咖啡杯", "mug|coffee cup"),
    _type("backpack", "bags", 299, "双肩包|背包", "backpack|rucksack"),
    _type("t-shirt", "apparel", 99, "T恤|短袖", "t-shirt|tee"),
    _type("desk lamp", "furniture", 199, "台灯|书桌灯", "desk lamp|table lamp"),
    _type("chair", "furniture", 459, "椅子|餐椅", "chair|dining chair"),
    _type("headphones", "electronics", 599, "耳机|头戴式耳机", "headphones|over-ear headphones"),
    _type("handbag", "bags", 499, "手提包|女士手提包", "handbag|purse"),
    _type("dress", "apparel", 329, "连衣裙|裙装", "dress|one-piece dress"),
    _type("teapot", "kitchen", 169, "茶壶|泡茶壶", "teapot|tea kettle"),
    _type("boots", "footwear", 599, "靴子|短靴", "boots|ankle boots"),
    _type("sunglasses", "electronics", 259, "太阳镜|墨镜", "sunglasses|shades"),
    _type("cushion", "soft home", 79, "抱枕|靠垫", "cushion|throw pillow"),
    _type("wrist watch", "bags", 899, "手表|腕表", "wrist watch|watch"),
    _type("hoodie", "apparel", 229, "卫衣|连帽衫", "hoodie|hooded sweatshirt"),
    _type("vase", "kitchen", 139, "花瓶|插花瓶", "vase|flower vase"),
    _type("suitcase", "bags", 699, "行李箱|拉杆箱", "suitcase|luggage"),
    _type("sofa", "furniture", 2599, "沙发|双人沙发", "sofa|couch"),
    _type("keyboard", "electronics", 359, "键盘|机械键盘", "keyboard|mechanical keyboard"),
    _type("baseball cap", "apparel", 89, "棒球帽|鸭舌帽", "baseball cap|peaked cap"),
    _type("sandals", "footwear", 189, "凉鞋|沙滩鞋", "sandals|beach sandals"),
    _type("bowl", "kitchen", 45, "碗|汤碗", "bowl|soup bowl"),
    _type("wallet", "bags", 259, "钱包|皮夹", "wallet|billfold"),
    _type("speaker", "electronics", 299, "音箱|蓝牙音箱", "speaker|bluetooth speaker"),
    _type("shirt", "apparel", 199, "衬衫|长袖衬衫", "shirt|long-sleeved shirt"),
    _type("bookshelf", "furniture", 799, "书架|置物架", "bookshelf|shelving unit"),
    _type("skirt", "apparel", 179, "半身裙|短裙", "skirt|midi skirt"),
    _type("water bottle", "kitchen", 89, "水杯|水壶", "water bottle|drinking bottle"),
    _type("wall clock", "electronics", 149, "挂钟|时钟", "wall clock|clock"),
    _type("teddy bear", "soft home", 129, "泰迪熊|毛绒熊", "teddy bear|plush bear"),
    _type("high heels", "footwear", 459, "高跟鞋|细跟鞋", "high heels|stilettos"),
    _type("tote bag", "bags", 159, "托特包|购物袋", "tote bag|shopper bag"),
    _type("trousers", "apparel", 239, "长裤|休闲裤", "trousers|long pants"),
    _type("floor lamp", "furniture", 399, "落地灯|客厅灯", "floor lamp|standing lamp"),
    _type("plate", "kitchen", 49, "盘子|餐盘", "plate|dinner plate"),
    _type("game controller", "electronics", 249, "游戏手柄|手柄", "game controller|gamepad"),
    _type("scarf", "apparel", 149, "围巾|围脖", "scarf|neck scarf"),
    _type("stool", "furniture", 189, "凳子|圆凳", "stool|round stool"),
    _type("coat", "apparel", 799, "大衣|外套", "coat|overcoat"),
    _type("plant pot", "kitchen", 69, "花盆|盆栽盆", "plant pot|flower pot"),
    _type("slippers", "footwear", 69, "拖鞋|居家鞋", "slippers|house shoes"),
    _type("rug", "soft home", 349, "地毯|地垫", "rug|carpet"),
    _type("phone case", "bags", 59, "手机壳|保护壳", "phone case|phone cover"),
    _type("beanie", "apparel", 79, "毛线帽|针织帽", "beanie|knitted hat"),
    _type("table", "furniture", 1299, "桌子|餐桌", "table|dining table"),
    _type("shorts", "apparel", 119, "短裤|五分裤", "shorts|short pants"),
    _type("pendant lamp", "furniture", 329, "吊灯|餐厅吊灯", "pendant lamp|hanging lamp"),
    _type("socks", "apparel", 29, "袜子|中筒袜", "socks|crew socks"),
    _type("cabinet", "furniture", 1099, "柜子|储物柜", "cabinet|storage cabinet"),
    _type("gloves", "apparel", 89, "手套|保暖手套", "gloves|winter gloves"),
)
"""The first few differ in group, so that a small shop is varied too."""

BRAND_FIRST = (
    ("木", "Mu"),
    ("青", "Qing"),
    ("云", "Yun"),
    ("山", "Shan"),
    ("海", "Hai"),
    ("白", "Bai"),
    ("星", "Xing"),
)
BRAND_LAST = (
    ("野", "ye"),
    ("禾", "he"),
    ("石", "shi"),
    ("舟", "zhou"),
    ("原", "yuan"),
    ("里", "li"),
    ("川", "chuan"),
    ("言", "yan"),
)


def brand(merchant: int) -> tuple[str, str]:
    """The invented brand of a merchant in Chinese and in English.

    >>> brand(0)
    ('木野', 'Muye')
    """
    first = BRAND_FIRST[merchant % len(BRAND_FIRST)]
    last = BRAND_LAST[merchant % len(BRAND_LAST)]
    return first[0] + last[0], first[1] + last[1]
