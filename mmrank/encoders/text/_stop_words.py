"""Words of Chinese and English that name no product; public tables, not a statistic of anyone's text.

The Chinese ones are in simplified characters, as the text is when they are looked up.
"""

from __future__ import annotations

_ENGLISH = """
a an and are as at be by for from has have in into is it its of on or our so that the their these this those to was
we were which will with you your
"""
_GRAMMAR = """
的 得 着 著 了 吗 啊 呀 哦 喔 嘛 啦 和 与 及 或 并 且 而 但 是 在 有 也 都 就 还 又 很 等 之 其 所 让 给 从 为 以 于
同 到 这 那 该 此 我 你 您 他 她 它 咱 们 谁 哪 个 我们 你们 他们 她们 它们 咱们 自己 这个 那个 这些 那些 这种 那种
这样 那样 这款 那款 一个 一些 一种 一款 一下 可以 能够 非常 以及 并且 而且 但是 因为 所以 如果 或者 还是 关于 对于
比较 有点 有没有 是不是
"""
_ASKING = """
请 请问 想 要 想要 想买 要买 我想 我要 买 购买 找 寻找 帮我 求 推荐 求推荐 适合 什么 怎么 怎样 如何 哪里 哪个 哪些
哪款 哪种 多少 多少钱
"""
_CANTONESE = "嘅 咗 喺 啲 唔 佢 哋 咁 嘢 𠮶 系咪 点样 边度"
_JAPANESE = "の"
"""Chinese titles write it for 的."""

FUNCTION_WORDS = frozenset(f"{_ENGLISH} {_GRAMMAR} {_ASKING} {_CANTONESE} {_JAPANESE}".split())
"""Words of grammar, and what a query says besides the product.

Words that grammar shares with a shop stay: 被 (a quilt), 呢 (woollen cloth), 跟 (a heel), 帮 (a shoe's upper),
吧 (of 吧椅), 对 (of 对戒), 把 (a handle). So do measure words: 双, 件套 and 条装 say what is sold.
"""

_SELLER = """
官方 官网 官旗 旗舰店 专卖店 专营店 企业店 直营店 自营 专柜 本店 小店 厂家 商家 卖家 厂家直销 工厂直销 直销 代发
一件代发 公司货 行货 正品 正版 保真 官方正品 专柜正品 原装正品
"""
_NEW_OR_LIKED = """
款 新款 新品 上新 爆款 热卖 热销 畅销 热门 抢手 人气 热推 主推 网红 同款 明星同款 现货 预售 预购 促销 好评 加购
"""
_PRICE = """
特价 特惠 优惠 优惠价 优惠券 领券 券后 立减 满减 直降 下杀 限时 限时抢购 抢购 秒杀 清仓 甩卖 亏本 打折 折扣 到手价
聚划算 百亿补贴 国补 政府补贴 买一送一 买二送一 拍一发二 包邮 免邮 免运 免运费 含运
"""
_DELIVERY = """
发货 出货 快速出货 极速发货 当天发货 当天出货 次日达 顺丰包邮 运费险 送运费险 退换 退换货 无理由 七天无理由
无理由退换 七天无理由退换 假一赔十 假一罚十 假一赔三 品质保证 质量保证 正品保证 正品保障 售后无忧 联保 全国联保
"""

SHOP_FILLER = frozenset(f"{_SELLER} {_NEW_OR_LIKED} {_PRICE} {_DELIVERY}".split())
"""Words of the shop that stand in any title and name no product.

Left out because they cost where nothing weighs words by rarity: random hashing and hashed ids have no IDF, BM25
counts them into a title's length, and the query 官方正品耳机 would meet every official shop. What tells products
apart stays: 男 女 儿童 (for whom), 韩版 百搭 (style), 旗舰 (a tier of phones), 全新 二手 原装 进口 水货 (condition and
origin), 礼盒 年货 (occasion), 快递 收藏 (of 快递袋, 收藏摆件).
"""

STOP_WORDS = FUNCTION_WORDS | SHOP_FILLER
