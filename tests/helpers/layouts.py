"""Small data sets in the layouts that annotation tools export, all with the same images and objects."""

import json

from PIL import Image

CLASSES = ("cat", "dog")
# Width and height of each image, and the objects: the class, and the corners of a rectangle x0, y0, x1, y1.
IMAGES = {
    "a": ((40, 20), [("dog", (4, 2, 24, 12)), ("cat", (10, 5, 20, 15))]),
    "b": ((20, 40), [("cat", (2, 4, 10, 36))]),
    "c": ((40, 40), []),
    "d": ((80, 40), [("dog", (8, 8, 72, 32))]),
}
SPLITS = {"train": ("a", "b", "c"), "val": ("d",)}


def write_image(path, size):
    """Writes an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path)


def write_text(path, text):
    """Writes a file and its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def corners(box):
    """The outline of a rectangle."""
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def coco_content(names, prefix="", masks=True, suffix=".png", first=1):
    """The content of a COCO file with these images."""
    images, annotations = [], []
    for number, name in enumerate(names, start=first):
        (width, height), objects = IMAGES[name]
        images.append({"id": number, "file_name": f"{prefix}{name}{suffix}", "width": width, "height": height})
        for label, (x0, y0, x1, y1) in objects:
            annotations.append(
                {
                    "id": len(annotations) + first,
                    "image_id": number,
                    "category_id": CLASSES.index(label) + first,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "segmentation": [corners((x0, y0, x1, y1))] if masks else [],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=first)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root, masks=True, **options):
    """COCO's own layout."""
    for split, names in SPLITS.items():
        for name in names:
            write_image(root / split / f"{name}.png", IMAGES[name][0])
        content = coco_content(names, masks=masks, **options)
        write_text(root / f"annotations/instances_{split}.json", json.dumps(content))
    return root


def yolo_lines(name, masks):
    """The text of a label file."""
    (width, height), objects = IMAGES[name]
    lines = []
    for label, (x0, y0, x1, y1) in objects:
        values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
        if masks:
            values = [value / side for value, side in zip(corners((x0, y0, x1, y1)), (width, height) * 4)]
        lines.append(" ".join([str(CLASSES.index(label)), *(f"{value:.6f}" for value in values)]))
    return "\n".join(lines) + "\n"


def write_yolo(root, masks=False, images="images/{}", labels="labels/{}", description="data.yaml", splits=SPLITS):
    """YOLO's layout. An image without objects has no label file."""
    for split, names in splits.items():
        for name in names:
            write_image(root / images.format(split) / f"{name}.png", IMAGES[name][0])
            if IMAGES[name][1]:
                write_text(root / labels.format(split) / f"{name}.txt", yolo_lines(name, masks))
    if description:
        entries = "".join(f"{split}: {images.format(split)}\n" for split in splits)
        write_text(root / description, f"path: .\n{entries}names: [{', '.join(CLASSES)}]\n")
    return root


def voc_xml(name, first=1, difficult=()):
    """The text of an XML file. With ``first=1``, corners are pixels, and the first pixel is 1."""
    (width, height), objects = IMAGES[name]
    text = f"<filename>{name}.png</filename><size><width>{width}</width><height>{height}</height></size>"
    for label, (x0, y0, x1, y1) in objects:
        values = zip(("xmin", "ymin", "xmax", "ymax"), (x0 + first, y0 + first, x1, y1))
        box = "".join(f"<{key}>{value}</{key}>" for key, value in values)
        hard = int(label in difficult)
        text += f"<object><name>{label}</name><difficult>{hard}</difficult><bndbox>{box}</bndbox></object>"
    return f"<annotation>{text}</annotation>"


def write_voc(root, **options):
    """Pascal VOC's layout."""
    for split, names in SPLITS.items():
        for name in names:
            write_image(root / f"JPEGImages/{name}.png", IMAGES[name][0])
            write_text(root / f"Annotations/{name}.xml", voc_xml(name, **options))
        write_text(root / f"ImageSets/Main/{split}.txt", "\n".join(names) + "\n")
    return root


def shape(label, kind, points, group=None, **more):
    """A shape of LabelMe."""
    return {"label": label, "shape_type": kind, "points": points, "group_id": group, **more}


def write_labelme(root, shapes, size=(40, 20), name="a", **content):
    """An image with a JSON file next to it."""
    write_image(root / f"{name}.png", size)
    content = {"shapes": shapes, "imagePath": f"{name}.png", "imageData": "AAAA", **content}
    write_text(root / f"{name}.json", json.dumps(content))
    return root


def boxes(content):
    """The class and the box of each object, by the name of the image's file."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append((names[annotation["category_id"]], tuple(annotation["bbox"])))
    stems = {image["id"]: image["file_name"].split("/")[-1].split(".")[0] for image in content["images"]}
    return {stems[image]: objects for image, objects in found.items()}


def expected_boxes(names):
    """What :func:`boxes` finds in every format."""
    return {
        name: [(label, (x0, y0, x1 - x0, y1 - y0)) for label, (x0, y0, x1, y1) in IMAGES[name][1]] for name in names
    }
