"""At stake: Chinese says the same whatever the script, region, width and filler it is written in."""

from __future__ import annotations

import re
import unicodedata

import opencc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmrank.encoders.text._chinese import cut, mainland, simplified
from mmrank.encoders.text._chinese_words import REGIONAL, SHOP_WORDS
from mmrank.encoders.text._folding import folded
from mmrank.encoders.text._stop_words import FUNCTION_WORDS, SHOP_FILLER, STOP_WORDS
from mmrank.encoders.text._tokens import features, tokens
from tests.encoders.chinese_titles import SENTENCES, TITLES

EAST_ASIAN = st.text(
    st.sampled_from(
        "运動鞋鼠標滑体軟幺麼麽乾清宮著穿枱T恤帽U盘の〇々𠮷ァー한글 -'’,.*x×058mlMＭ升克米色吋\u200b\ufe0f™①🔥\u20e3"
    )
    | st.characters(),
    max_size=30,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("皇后在后面，皇太后在前面", "皇后在后面，皇太后在前面"),
        ("後面的貨架", "后面的货架"),
        ("乾淨的餅乾與乾隆年間的樹幹", "干净的饼干与乾隆年间的树干"),
        ("頭髮、髮夾、發現", "头发、发夹、发现"),
        ("里面、公里、裏面、裡面", "里面、公里、里面、里面"),
        ("著名、顯著、显著", "著名、显著、显著"),
        ("鐘錶、手錶、表面", "钟表、手表、表面"),
        ("麵條、麵粉、面膜、面試", "面条、面粉、面膜、面试"),
        ("檯燈、枱燈、臺灣、颱風、台风", "台灯、台灯、台湾、台风、台风"),
        ("複合、復古、重覆", "复合、复古、重复"),
        ("隻身、只有、幾何、茶几", "只身、只有、几何、茶几"),
        ("矽膠、T裇、衞生、粧容", "硅胶、T恤、卫生、妆容"),
        ("running shoes Größe 42", "running shoes Größe 42"),
    ],
)
def test_traditional_characters_become_the_simplified_ones_that_are_meant(text: str, expected: str) -> None:
    assert simplified(text) == expected
    assert simplified(expected) == expected


def test_text_without_chinese_is_not_converted_at_all() -> None:
    text = "Nike Air Max 270 ランニング 운동화"
    assert simplified(text) is text


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("無線滑鼠", "无线鼠标"),
        ("防毒軟體", "防毒软件"),
        ("14吋輕薄筆電", "14英寸轻薄笔记本电脑"),
        ("行動電源", "移动电源"),
        ("64GB隨身碟", "64gb U盘"),
        ("雷射印表機", "激光打印机"),
        ("固態硬碟", "固态硬盘"),
        ("智慧型手機", "智能手机"),
        ("流動電話", "手机"),
        ("矽膠手機殼", "硅胶手机壳"),
        ("碎花洋裝", "碎花连衣裙"),
        ("連帽大學T", "连帽卫衣"),
        ("波鞋", "运动鞋"),
        ("牛油果", "酪梨"),
        ("朱古力", "巧克力"),
        ("腳踏車", "自行车"),
        ("OK繃", "创可贴"),
        ("穿著舒適", "穿着舒适"),
    ],
)
def test_a_word_of_taiwan_or_hong_kong_is_the_mainlands(theirs: str, ours: str) -> None:
    assert tokens(theirs) == tokens(ours)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "系列印花",
            "软体沙发",
            "显示卡路里",
            "局域网路由器",
            "西洋装饰画",
            "大学t恤",
            "空气炸锅",
            "起泡面膜",
            "水晶片",
        ),
        *("桌布", "核心训练", "计算机", "机车夹克", "土豆", "影片", "数位板", "智慧树", "公车", "书本", "品质"),
        *SENTENCES,
    ],
)
def test_mainland_text_keeps_its_words(text: str) -> None:
    assert mainland(text) == text == simplified(text)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Ｎｉｋｅ　男鞋４２码", "nike 男鞋42码"),
        ("【官方旗舰店】「耐克」男鞋·包邮！", "耐克 男鞋"),
        ("红\u200b色\u200d连\ufeff衣裙", "红色连衣裙"),
        ("T\ufe0f恤 葛\U000e0100根", "T恤 葛根"),
        ("🔥爆款🔥连衣裙👗🎁1️⃣🆕㊙️", "连衣裙"),
        ("Nike™ 男鞋", "nike 男鞋"),
        ("⽉饼 ⾐服", "月饼 衣服"),  # Kangxi radicals
        ("豈\u2003\u3000  樂", "岂 乐"),  # a compatibility ideograph, wide blanks
        ("500毫升 1.5公升 2公斤 30厘米", "500ML 1.5 L 2kg 30 cm"),
        ("27英寸 27吋 27寸", "27 inch 27-inch 27inch"),
        ("20,000mAh", "20000毫安时"),
        ("30x40公分", "30×40cm"),
        ("USB-C 数据线", "USB‑C 数据线"),
        ("Wi-Fi 路由器", "WiFi 路由器"),
        ("ﾗﾝﾆﾝｸﾞｼｭｰｽﾞ", "ランニングシューズ"),
        ("USB-C数据线 Type-C", "usb usbc 數據線 type typec"),
        ("Polo-T恤", "polo t恤"),
        ("Women's连衣裙 Levi’s牛仔裤", "woman 連衣裙 levi 牛仔褲"),
        ("東京タワー", "东京タワー"),
    ],
)
def test_one_thing_written_in_two_ways_has_the_same_tokens(left: str, right: str) -> None:
    assert tokens(left) == tokens(right) != []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("纯棉V领T恤女", "纯棉 v领 t恤 女"),
        ("三件套 2件装 两双", "三件套 2 件 装"),
        ("42码 XL码 A4纸 5G手机 3D打印机 U盘 K歌", "42 码 xl 码 a4 纸 5g 手机 3d 打印机 u盘 k歌"),
        ("iPhone15 Pro Max手机壳", "iphone 15 iphone15 pro max 手机壳"),
        ("2024米色长裙 3克拉钻戒 2升降桌 5瓦楞纸箱", "2024 米色 长裙 3 克拉 2 升降 5 瓦楞"),
        ("Nike耐克男鞋Air Max 270 运动鞋", "nike 耐克 男鞋 air max 270 运动鞋"),
        ("男女儿童百搭韩版", "男女 儿童 百搭 韩版"),
        ("全新二手原装进口", "全新 二手 原装 进口"),
        ("夏凉被 毛呢大衣 粗跟凉鞋 高帮 吧椅 对戒 羊毛被子", "夏凉被 呢大衣 粗跟 凉鞋 高帮 吧椅 对戒 被子"),
        ("無線電競滑鼠", "无线 电竞 鼠标"),
        ("真正品质", "真正 品质"),
        ("黒いランニングシューズ Nikeスニーカー", "黒 い ランニングシューズ nike スニーカー"),
        ("나이키 운동화 230mm 삼성갤럭시", "나이키 운동화 230mm 삼성갤럭시"),
        ("𠮷野家牛肉饭", "𠮷 野家 牛肉"),
        ("二〇二四 人々 優の品", "〇 人々 优 品"),
    ],
)
def test_words_that_a_title_must_give(text: str, words: str) -> None:
    found = tokens(text)
    missing = [word for word in words.split() if word not in found]
    assert not missing, found


@pytest.mark.parametrize(
    "text",
    [
        "官方旗舰店正品新款爆款热卖包邮",
        "【現貨】公司貨 免運 限時特價 快速出貨",
        "假一赔十 七天无理由退换 全国联保 买一送一",
        "请问有没有推荐的？",
        "我想要這個嘅",
        "，。！？【】「」《》～…·",
        "🔥🎁👗",
        "\u200b\ufeff\ud83d\u3164",
    ],
)
def test_filler_and_grammar_alone_say_nothing(text: str) -> None:
    assert tokens(text) == features(text) == []


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("官方旗舰店正品 运动鞋 包邮", "官方正品 手机壳 包邮 旗舰店"),
        ("我想买一个耳机", "我想要一双皮鞋"),
        ("新款夏季连衣裙", "新款冬款手套"),
        ("桌布", "壁纸"),
        ("大学T恤", "卫衣"),
        ("土豆", "花生"),
        ("干净", "后面"),
        ("500ml", "500g"),
        ("42码", "43双"),
    ],
)
def test_things_that_differ_share_no_token(left: str, right: str) -> None:
    assert not set(tokens(left)) & set(tokens(right))


def test_what_is_left_out_leaves_a_gap_that_no_pair_bridges() -> None:
    assert cut("跑步的鞋") == (["跑步", "鞋"], ["跑步", "鞋"])
    assert "步鞋" not in tokens("跑步的鞋")
    assert not {"c:包", "c:邮", "c:鞋包"} & set(features("鞋包邮"))


def test_the_tables_are_in_the_script_that_they_are_looked_up_in() -> None:
    for word in STOP_WORDS | {*SHOP_WORDS, *REGIONAL, *REGIONAL.values()}:
        assert simplified(word) == word == word.lower(), word
        assert unicodedata.normalize("NFKC", word) == word
    assert not STOP_WORDS & {"男", "女", "儿童", "双", "被", "大", "小", "新"}
    assert not SHOP_FILLER & (FUNCTION_WORDS | set(SHOP_WORDS) | set(REGIONAL.values()))
    for word, theirs in REGIONAL.items():
        assert mainland(mainland(word)) == theirs


@pytest.mark.parametrize("scheme", ["s2t", "s2tw", "s2hk"])
def test_the_same_text_in_traditional_characters_has_the_same_tokens(scheme: str) -> None:
    converter = opencc.OpenCC(scheme)
    for text in (*SENTENCES, *TITLES):
        assert tokens(converter.convert(text)) == tokens(text)
        assert features(converter.convert(text)) == features(text)


def test_full_width_letters_and_figures_change_nothing() -> None:
    for text in TITLES:
        wide = re.sub("[!-~]", lambda match: chr(ord(match.group()) + 0xFEE0), text).replace(" ", "\u3000")
        assert tokens(wide) == tokens(text)


@settings(deadline=None)  # the dictionary loads at the first call
@given(EAST_ASIAN)
@example("\ud800鞋")
@example("幺麼小丑")
@example("乾清宮")
@example("a-b-c ab-c-d usb-c 1,000,000")
def test_any_text_folds_once_and_for_all(text: str) -> None:
    once = folded(text)
    assert folded(once) == once
    assert tokens(once) == tokens(text) == tokens(unicodedata.normalize("NFKC", once))
    assert not set(tokens(text)) & STOP_WORDS
    assert all(token.encode() and token == token.strip() for token in tokens(text))
