"""Public tables of Chinese words: what is cut as one word, and what Taiwan and Hong Kong call it.

All are in simplified characters and small letters, as the text is when they are looked up. None is a statistic of
anyone's text.
"""

from __future__ import annotations

_WITH_A_LETTER = "t恤 t恤衫 u盘 v领 u型 a字裙 x光 k歌 b超"
_TO_WEAR = """
低帮 高帮 中帮 百搭 厚底 马丁靴 切尔西靴 老爹鞋 板鞋 洞洞鞋 勃肯鞋 豆豆鞋 小白鞋 帆布鞋 跑步鞋 慢跑鞋 跑鞋 球鞋
人字拖 粗跟 细跟 直筒 阔腿 阔腿裤 直筒裤 工装裤 打底裤 打底衫 瑜伽裤 鲨鱼裤 卫衣 连帽 羽绒服 防晒衣 冲锋衣 冲锋裤
速干 针织衫 半身裙 连衣裙 长裙 碎花 雪纺 显瘦 收腰 修身 加绒 加厚 免烫 冰丝 莫代尔 法式 韩版 圆领 高腰 薄款 厚款
长款 短款 男款 女款 毛呢 情侣款 双肩包 斜挎包 单肩包 托特包 腋下包 帆布包 对戒
"""
_ELECTRIC = """
充电宝 移动电源 充电线 数据线 充电头 快充 手机壳 保护壳 钢化膜 平板电脑 笔记本电脑 台式机 显示器 机械键盘 无线鼠标
蓝牙耳机 头戴式 入耳式 降噪 电竞 无线电竞 固态硬盘 移动硬盘 打印机 路由器 智能手表 智能手机 智能手环 行车记录仪
空气炸锅 破壁机 豆浆机 电饭煲 养生壶 扫地机器人 吸尘器 洗地机 空气净化器 净化器 除湿机 加湿器 挂烫机 吹风机 剃须刀
电动牙刷 冲牙器 除螨 护眼 护眼灯 落地灯 氛围灯 小夜灯
"""
_AT_HOME = """
保温杯 保温瓶 随行杯 马克杯 焖烧杯 三件套 四件套 两件套 六件套 床笠 乳胶枕 记忆棉 蚕丝被 羽绒被 夏凉被 遮光 收纳盒
收纳箱 置物架 床头柜 吧椅 地垫 防滑垫 中性笔 复印纸 抽纸 洗衣液 纸尿裤 拉拉裤 婴儿车 安全座椅 猫粮 狗粮 猫砂 平衡车
滑板车 积木 盲盒 手办
"""
_TO_USE_UP = """
唇釉 唇膏 粉底液 气垫霜 眼影盘 防晒霜 防晒乳 精华液 爽肤水 洗面奶 洁面乳 面膜 卸妆水 卸妆油 沐浴露 洗发水 护发素
身体乳 护手霜 雾面 哑光 敏感肌 辅食 螺蛳粉 自热火锅 坚果 奶粉 牛油果 创可贴
"""

SHOP_WORDS = tuple(f"{_WITH_A_LETTER} {_TO_WEAR} {_ELECTRIC} {_AT_HOME} {_TO_USE_UP}".split())
"""Words of a shop that the segmenter's dictionary of 2012 lacks, or has with a capital letter: cut as one."""

_REGIONAL = """
滑鼠 鼠标|软体 软件|硬体 硬件|硬碟 硬盘|随身碟 u盘|光碟机 光驱|光碟 光盘|印表机 打印机|列印 打印|列印表机 打印机
影印机 复印机|影印纸 复印纸|雷射 激光|萤幕 屏幕|荧幕 屏幕|记忆体 内存|记忆卡 存储卡|显示卡 显卡|主机板 主板
网路 网络|伺服器 服务器|晶片 芯片|音效卡 声卡|笔电 笔记本电脑|笔记型电脑 笔记本电脑|手提电脑 笔记本电脑
桌上型电脑 台式机|行动电话 手机|流动电话 手机|手提电话 手机|行动电源 移动电源|行动硬碟 移动硬盘|智慧型手机 智能手机
智慧手机 智能手机|智慧型手表 智能手表|智慧手表 智能手表|智慧手环 智能手环|智慧家电 智能家电|智慧家居 智能家居
智慧音箱 智能音箱|智慧电视 智能电视|智慧门锁 智能门锁|智慧插座 智能插座|解析度 分辨率|数位相机 数码相机
单眼相机 单反相机|行车纪录器 行车记录仪|行车记录器 行车记录仪|投影机 投影仪|读卡机 读卡器|清净机 净化器
气炸锅 空气炸锅|电子锅 电饭煲|瓦斯炉 燃气灶|吸尘机 吸尘器|冷气机 空调|焗炉 烤箱|刮胡刀 剃须刀|脚踏车 自行车
洋装 连衣裙|帽t 卫衣|大学t 卫衣|夹脚拖 人字拖|波鞋 运动鞋|恤衫 衬衫|冷衫 毛衣|银包 钱包|颈巾 围巾|太阳眼镜 太阳镜
穿著 穿着|衣著 衣着|著装 着装|附著 附着|吸著 吸着|著色 着色|梳化 沙发|奶樽 奶瓶|水樽 水瓶|塑胶 塑料|奈米 纳米
压克力 亚克力|保丽龙 泡沫塑料|原子笔 圆珠笔|立可白 修正液|擦胶 橡皮擦|ok绷 创可贴|洗发精 洗发水|洗发乳 洗发水
洗头水 洗发水|洗面乳 洗面奶|沐浴乳 沐浴露|朱古力 巧克力|士多啤梨 草莓|公仔面 方便面|速食面 方便面|泡面 方便面
忌廉 奶油|吞拿鱼 金枪鱼|鲔鱼 金枪鱼|优格 酸奶|优酪乳 酸奶|起司 奶酪|乳酪 奶酪|咖哩 咖喱|酪梨 牛油果|芭乐 番石榴
榴梿 榴莲|奇异果 猕猴桃
"""
_NOT_REGIONAL = """
软体动物 软体沙发 软体床 软体家具 软体玩具 柔软体 松软体 软体感 软体验 坚硬体 硬体感 系列印 阵列印 排列印 陈列印
并列印 网路由 网路亚 显示卡路里 显示卡通 显示卡片 记忆体验 记忆体感 记忆卡片 记忆卡牌 音效卡拉 水晶片 结晶片 防雷射
雷射击 笔电容 笔电动 笔电池 笔电子 笔电量 铅笔电 圆珠笔电 原子笔记 海洋装 西洋装 远洋装 东洋装 洋装饰 洋装修 洋装备
洋装箱 大学t恤 帽t恤 t恤衫 声波鞋 光波鞋 空气炸锅 银包金 银包铜 银包边 护颈巾 梳化妆 衣著名 摩擦胶 皮擦胶 泡面膜
起泡面 气泡面 灯泡面 公仔面具 公仔面料 一起司 发起司 优格调 洗头水槽 洗头水管 洗头水龙 塑胶跑道 洗发乳液 沐浴乳液
洗面乳液
"""

REGIONAL = dict(pair.split() for line in _REGIONAL.split("\n") for pair in line.split("|") if pair)
REGIONAL |= {word: word for word in _NOT_REGIONAL.split()}
"""What Taiwan and Hong Kong call a product, and the mainland's word; a word that maps to itself only hides another.

OpenCC knows fewer than a third of them, among hundreds of words of programmers and names of places. Its table is not
used whole: it makes 桌布 (a tablecloth) wallpaper, 核心 (of a workout) a kernel and 數位相機 a 数字相机, the first two
in simplified text as well. Here stands a word that, on the mainland, means the same or nothing; so 機車, 計算機, 土豆
and 影片, which mean something else there, do not.
"""

VARIANTS = str.maketrans("枱粧糭衞衹敍裇矽麽凖靑", "台妆粽卫只叙恤硅么准青")
"""Characters of Hong Kong and Taiwan that OpenCC's t2s leaves, and 矽, which the mainland writes 硅."""
