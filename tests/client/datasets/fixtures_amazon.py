"""Amazon's reviews of 2023, 2018 and 2014, written to disk as McAuley Lab publishes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.client.datasets.fixtures_logs import DAY, ITEMS, ratings, write_lines

AMAZON = "https://m.media-amazon.com/images/I"


def asin(item: int) -> str:
    return f"B00{item:07d}"


def meta_2023(item: int) -> dict[str, Any]:
    """A row of meta_CATEGORY.jsonl."""
    picture = {
        "thumb": f"{AMAZON}/4{item}.jpg",
        "large": f"{AMAZON}/5{item}.jpg",
        "variant": "MAIN",
        "hi_res": f"{AMAZON}/7{item}._SL1500_.jpg" if item % 2 else None,
    }
    return {
        "main_category": "All Beauty",
        "title": f"Hydra Cream {item}",
        "average_rating": 4.2,
        "rating_number": 15,
        "features": ["Formulation: Cream"],
        "description": [],
        "price": (None, 17.5, "from 14.99", "—")[item % 4],
        "images": [picture | {"variant": "PT01", "hi_res": f"{AMAZON}/other.jpg"}, picture],
        "videos": [],
        "store": f"Store {item % 3}" if item % 7 else None,
        "categories": ["Beauty & Personal Care", ("Skin Care", "Hair Care")[item % 2], "Face"] if item % 5 else [],
        "details": {"Brand": "Bissport"},
        "parent_asin": asin(item),
        "bought_together": None,
    }


def review_2023(person: int, item: int, stars: int, second: int) -> dict[str, Any]:
    return {
        "rating": float(stars),
        "title": "Such a lovely scent",
        "text": 'This "spray" is really nice.\nTruly.',
        "images": [],
        "asin": f"{asin(item)[:-1]}X",
        "parent_asin": asin(item),
        "user_id": f"AG{person:04d}",
        "timestamp": second * 1000 + 923,
        "helpful_vote": 0,
        "verified_purchase": item % 3 != 0,
    }


def write_amazon_reviews(root: Path, *, packing: str = ".gz") -> None:
    """2023, packed as it is published."""
    write_lines(root / f"All_Beauty.jsonl{packing}", (json.dumps(review_2023(*row)) for row in ratings()))
    rows = (json.dumps(meta_2023(item), ensure_ascii=False) for item in range(1, ITEMS + 1))
    write_lines(root / f"meta_All_Beauty.jsonl{packing}", rows)


def write_amazon_2018(root: Path) -> None:
    """All reviews of two kinds, with the quirks of that year's metadata."""
    rows = [
        {
            "overall": float(stars),
            "verified": item % 3 != 0,
            "reviewTime": "01 1, 2018",
            "reviewerID": f"A{person}",
            "asin": asin(item),
            "style": {"Size:": "Large"},
            "reviewerName": "Abbey",
            "reviewText": "Comfy",
            "summary": "Comfy",
            "unixReviewTime": second // DAY * DAY,
        }
        for person, item, stars, second in ratings()
    ]
    write_lines(root / "Gift_Cards_5.json", (json.dumps(row) for row in rows))
    logo = '<img src="https://images-na.ssl-images-amazon.com/x.png" class="nav-categ-image" alt="Digital Music"/>'
    metas = [
        {
            "category": ["Office &amp; School", "Calendars", "</span></span></span>", "Made of paper"],
            "tech1": "",
            "title": "var aPageStart = (new Date()).getTime();" if item == 9 else f"Day &quot;Planner&quot; {item}",
            "brand": "Visit Amazon's Paulo Coelho Page" if item % 2 else "by\n    \n    Acme",
            "main_cat": logo,
            "price": ("$1,299.00 - $1,500.00", "", "$18.99", ".a-box-inner{background-color:#fff}")[item % 4],
            "asin": asin(item),
            "imageURL": [f"{AMAZON}/5{item}._SS40_.jpg"],
            "imageURLHighRes": [f"{AMAZON}/5{item}.jpg"],
        }
        for item in range(1, ITEMS + 1)
    ]
    write_lines(root / "meta_Gift_Cards.json", (json.dumps(row) for row in [*metas, metas[0]]))


def write_amazon_2014(root: Path) -> None:
    """Reviews in JSON, metadata in Python's literals."""
    rows = [
        {
            "reviewerID": f"A{person}",
            "asin": asin(item),
            "reviewerName": "J. McDonald",
            "helpful": [2, 3],
            "reviewText": "Heavenly",
            "overall": float(stars),
            "summary": "Heavenly Highway Hymns",
            "unixReviewTime": second // DAY * DAY,
            "reviewTime": "09 13, 2009",
        }
        for person, item, stars, second in ratings()
    ]
    write_lines(root / "reviews_Shoes_5.json", (json.dumps(row) for row in rows))
    metas = [
        {
            "asin": asin(item),
            "title": f"Pr45\" White {item}'s Laces",
            "price": 3.17,
            "imUrl": f"http://ecx.images-amazon.com/images/I/31JI%2B{item}._SX300_.jpg",
            "related": {"also_bought": ["B00JHONN1S"]},
            "salesRank": {"Shoes": 211836},
            "categories": [["Clothing", "Shoe Care"], ["Sports"]],
        }
        for item in range(1, ITEMS + 1)
    ]
    write_lines(root / "meta_Shoes.json", (repr(row) for row in metas))
