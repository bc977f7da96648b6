"""What the look at an annotation file says is what mmdetection and pycocotools then do."""

import copy
import json

import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from pycocotools import mask as coco

from mmsec.datasets.annotations import look_at_annotations, read_annotations
from mmsec.datasets.coco import instance
from mmsec.datasets.masks import add_up
from mmsec.errors import InputError

NAN = float('nan')
SQUARE = [[2, 2, 2, 9, 9, 9, 9, 2]]
CLASSES = ('cat', 'dog')


def content():
    """Four images of 20x30 with five annotations each, one of them of run lengths."""
    mask = np.zeros((20, 30), bool)
    mask[2:9, 2:9] = True
    images = [{'id': i, 'file_name': f'{i}.jpg', 'height': 20, 'width': 30} for i in range(1, 5)]
    annotations = [
        instance(mask, i, 1 + k % 2) | ({'segmentation': copy.deepcopy(SQUARE)} if k else {})
        for i in range(1, 5)
        for k in range(5)
    ]
    categories = [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}, {'id': 3, 'name': 'pig'}]
    annotations = [{'id': i} | each for i, each in enumerate(annotations, start=1)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def change(place, **values):
    """A function that changes an entry of a list, or all of them, or leaves out a key that is None."""

    def edit(data):
        part, _, index = place.partition('.')
        for each in data[part] if index == '' else [data[part][int(index)]]:
            each.update(values)
            for key in [key for key, value in values.items() if value is None]:
                del each[key]

    return edit


def second(**values):
    return change('annotations.1', **values)


def replace(part, value):
    return lambda data: data.update({part: value})


LEFT_OUT = [
    (second(area=0), 'have an area of 0 or less'),
    (second(area=-3.5), 'have an area of 0 or less'),
    (second(bbox=[2, 2, 0, 5]), 'have a box narrower or lower than one pixel'),
    (second(bbox=[2, 2, 5, 0.5]), 'have a box narrower or lower than one pixel'),
    (second(bbox=[9, 9, -7, -7]), 'have a box narrower or lower than one pixel'),
    *((second(bbox=[NAN if i == k else 3 for k in range(4)]), 'have a box that is not a number') for i in range(4)),
    (second(bbox=[30, 2, 5, 5]), 'have a box outside their image'),
    (second(bbox=[2, -9, 5, 9]), 'have a box outside their image'),
    (second(bbox=[-50000, 2, 5, 5]), 'have a box outside their image'),
    (second(category_id=9), 'have a category_id that the file does not have'),
    (second(image_id=9), 'are of an image that the file does not have'),
    (second(image_id='1'), 'are of an image that the file does not have'),
    (second(segmentation=[[1, 1, 9, 9]]), 'have no polygon of three points'),
    (second(segmentation=[[1, 1, 9, 9, 9, 1, 3]]), 'have no polygon of three points'),
    (second(segmentation=[[1, 1, 9, 9], []]), 'have no polygon of three points'),
]
PASSED_OVER = [
    (second(category_id=3), 'annotations of other classes'),
    (second(ignore=1), "annotations marked 'ignore'"),
    (second(iscrowd=1), 'crowds'),
]
REFUSED = [
    (replace('annotations', None), "expected a list 'annotations', got null"),
    (replace('annotations', {}), "expected a list 'annotations', got a dict"),
    (replace('images', []), "the list 'images' is empty"),
    (replace('categories', 'cat'), 'expected a list \'categories\', got "cat"'),
    (lambda data: data.pop('images'), "expected a list 'images', got nothing"),
    (lambda data: data.pop('annotations'), "expected a list 'annotations', got nothing"),
    *(
        (lambda data, part=part: data[part].insert(1, None), rf'{part}\[1\] is null, expected a dict')
        for part in ('images', 'annotations', 'categories')
    ),
    *(
        (change(f'{part}.0', **{key: None}), f"1 of [0-9]+ {part} have no '{key}', first {part}.0.")
        for part, keys in (
            ('annotations', ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd')),
            ('images', ('id', 'file_name', 'height', 'width')),
            ('categories', ('id', 'name')),
        )
        for key in keys
    ),
    *(
        (change('annotations.0', bbox=box), "'bbox' of 1 of 20 annotations is not four numbers")
        for box in ([1, 2, 3], [1, 2, 3, '4'], [1, 2, 3, True], 'box', {}, [1, 2, 3, float('inf')], [0, 0, 1e9, 9])
    ),
    *(
        (change('annotations.0', **{key: value}), f"'{key}' of 1 of 20 annotations is not ")
        for key, value in (
            ('area', NAN),
            ('area', '9'),
            ('iscrowd', '0'),
            ('iscrowd', 2),
            ('image_id', [1]),
            ('id', 1.5),
        )
    ),
    *(
        (change('images.0', height=value), "'height' of 1 of 4 images is not a whole number")
        for value in (0, -20, NAN, '20', 1e12, 20.5)
    ),
    (change('annotations.0', id=2), 'ids of annotations must differ, and 2 annotations have the id 2'),
    (change('images.0', id=2), 'ids of images must differ'),
    (change('categories.0', id=2), 'ids of categories must differ'),
    (change('images.0', id='one'), 'some images have a number for an id, others a text'),
    (change('annotations', segmentation=None), "none of the 20 annotations has a 'segmentation'"),
    *((second(segmentation=value), "1 of 20 annotations have no 'segmentation'") for value in ([], {}, '')),
    *(
        (second(segmentation=[[value, 1, 9, 1, 9, 9]]), '1 of 20 annotations have a polygon with numbers that are not')
        for value in (NAN, float('inf'), 1e9, -1e9, 10**30)
    ),
    (second(segmentation=[[0, 0, 9e5, 9e5] * 50]), 'a polygon with numbers'),
    *(
        (second(segmentation=value), 'neither a list of polygons nor run lengths')
        for value in ([1, 1, 9, 9, 9, 1], [[[1, 1], [9, 9], [9, 1]]], [['1', 1, 9, 9, 9, 1]], 'mask', 5, [None])
    ),
    *(
        (
            second(segmentation={'size': [20, 30], 'counts': counts}),
            f'1 of 20 annotations have run lengths that {reason}',
        )
        for counts, reason in (
            ([10**9], 'do not add up'),
            ([599], 'do not add up'),
            ([605, -5], 'do not add up'),
            ([], 'do not add up'),
            (None, 'are malformed'),
            ('', 'are malformed'),
            ('zzz', 'are malformed'),
            ('é', 'are malformed'),
            ('oooo', 'are malformed'),
            ('P' * 30 + '1', 'are malformed'),
            ('1', 'do not add up'),
            ('nnn0', 'do not add up'),
        )
    ),
    (second(segmentation={'size': [30, 20], 'counts': [600]}), 'run lengths of another size than the image'),
    (second(segmentation={'size': [10**9, 10**9], 'counts': [10**18]}), 'run lengths of another size'),
    (second(segmentation={'counts': [600]}), 'run lengths of another size'),
    (change('annotations', iscrowd=1), 'no annotation is left of 20: 20 crowds'),
    (change('annotations', category_id=3), 'no annotation is left of 20: 20 annotations of other classes'),
    (change('annotations', area=0), r'20 of 20 annotations cannot be used, more than 10%: 20 have an area of 0'),
    (change('categories.0', name='cow'), "no category is called 'cat'; the file has 'cow', 'dog', 'pig'"),
    (change('categories.2', name='cat'), "'cat' is the name of several categories"),
    (
        lambda data: data['categories'].reverse(),
        r"in the order \('dog', 'cat'\), which is how mmdetection numbers them",
    ),
]


def look(edit, **options):
    data = content()
    edit(data)
    return look_at_annotations(data, CLASSES, 'data', **({'masks': True} | options)), data


def kept_by_mmdet(data, folder):
    """Instances of each class, without crowds, that mmdetection keeps and whose masks it reads."""
    (folder / 'a.json').write_text(json.dumps(data))
    init_default_scope('mmdet')
    config = dict(
        type='CocoDataset', ann_file=str(folder / 'a.json'), metainfo=dict(classes=CLASSES), data_prefix=dict(img='')
    )
    dataset = DATASETS.build(config)
    load = TRANSFORMS.build(dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True))
    counts = dict.fromkeys(CLASSES, 0)
    for i in range(len(dataset)):
        loaded = load(dataset.get_data_info(i) | {'ori_shape': (20, 30)})
        for label in loaded['gt_bboxes_labels'][~loaded['gt_ignore_flags']]:
            counts[CLASSES[label]] += 1
    return counts


@pytest.mark.parametrize(('edit', 'reason'), LEFT_OUT, ids=lambda each: each if isinstance(each, str) else '')
def test_what_mmdetection_drops_is_named(edit, reason, tmp_path):
    found, data = look(edit)
    assert found.refused == []
    ((given, names),) = found.left_out.items()
    assert given.startswith(reason)
    assert names[0].startswith('annotation 2 of ')
    assert found.classes == kept_by_mmdet(data, tmp_path)
    assert sum(found.classes.values()) == 19


@pytest.mark.parametrize(('edit', 'reason'), PASSED_OVER)
def test_what_is_left_out_on_purpose_does_not_count_as_broken(edit, reason, tmp_path):
    found, data = look(edit, max_share=0)
    assert (found.refused, found.left_out) == ([], {})
    ((given, count),) = found.passed_over.items()
    assert given.startswith(reason)
    assert count == 1
    assert found.classes == kept_by_mmdet(data, tmp_path)


def test_a_part_of_an_annotation_that_is_dropped_is_named(tmp_path):
    found, data = look(second(segmentation=[[1, 1, 9, 9], *SQUARE]))
    assert [reason[:17] for reason in found.left_out] == ['have a polygon of']
    assert sum(kept_by_mmdet(data, tmp_path).values()) == 20


@pytest.mark.parametrize(('edit', 'message'), REFUSED, ids=lambda each: each if isinstance(each, str) else '')
def test_what_ends_a_run_is_refused(edit, message):
    found, _ = look(edit)
    with pytest.raises(InputError, match=f'^data: .*{message}'):
        raise InputError(found.refused[0])
    assert '\n' not in found.refused[0]


@pytest.mark.parametrize('value', [None, [], 'text', 3])
def test_what_is_no_annotation_file_is_refused(value):
    assert look_at_annotations(value, CLASSES, 'data').refused[0].startswith('data: expected a dict with images, ')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (b'', 'is cut off or not JSON'),
        (b'{"images": [', 'is cut off or not JSON'),
        (b'{"images": [}', 'is cut off or not JSON'),
        (b'images', 'is cut off or not JSON'),
        (b'[' * 100000, 'is cut off or not JSON'),
        ('{"a": "ü"}'.encode('latin-1'), 'is not UTF-8'),
        ('{"a": 1}'.encode('utf-16'), 'is not UTF-8'),
        ('\ufeff{"a": 1}'.encode(), 'is cut off or not JSON: Unexpected UTF-8 BOM'),
        (None, 'is not a file'),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, text, message):
    path = tmp_path / 'a.json'
    path.mkdir() if text is None else path.write_bytes(text)
    with pytest.raises(InputError, match=message) as error:
        read_annotations(str(path))
    assert '\n' not in str(error.value)


def test_masks_are_looked_at_where_they_are_read():
    edit = change('annotations', segmentation=None)
    assert look(edit, masks=False)[0].refused == []
    found, _ = look(lambda data: None, only_polygons=True)
    assert {reason[:16]: len(names) for reason, names in found.left_out.items()} == {'have run lengths': 4}


@pytest.mark.parametrize(
    ('polygons', 'refused'),
    [
        ([[1, 1]], True),
        ([[1, 1, 9]], True),
        ([[1, 1, 9, 9], *SQUARE], True),
        ([*SQUARE, []], True),
        ([[1, 1, 9, 9]], True),  # which pycocotools takes for a box, and fails
        ([*SQUARE, [1, 1, 9, 9]], False),
        ([[1, 1, 9, 9, 9, 1, 3]], False),
    ],
)
def test_an_evaluation_reads_what_training_drops(polygons, refused):
    found, _ = look(second(segmentation=polygons), evaluated=True)
    assert bool(found.refused) == refused
    assert bool(found.left_out) != refused
    if not refused:
        coco.merge(coco.frPyObjects(polygons, 20, 30))  # or it would have to be


def test_ids_that_pycocotools_cannot_count_are_named():
    found, _ = look(change('annotations.0', id=0), evaluated=True)
    assert found.refused == []
    assert list(found.passed_over.values()) == [1]
    texts = lambda data: [each.update(id=f'a{each["id"]}') for each in data['annotations']]  # noqa: E731
    assert 'ids of annotations are texts' in look(texts, evaluated=True)[0].refused[0]
    assert look(texts)[0].refused == []


@pytest.mark.parametrize(
    ('filter_cfg', 'left'),
    [(None, 4), (dict(min_size=20), 4), (dict(min_size=21), 0), (dict(filter_empty_gt=True), 3)],
)
def test_images_that_a_filter_leaves_are_those_of_mmdetection(filter_cfg, left, tmp_path):
    edit = lambda data: [each.update(category_id=3) for each in data['annotations'][:5]]  # noqa: E731
    found, data = look(edit, filter_cfg=filter_cfg)
    assert found.left == left
    assert any('no image is left of 4: 4 images smaller than' in reason for reason in found.refused) == (left == 0)
    init_default_scope('mmdet')
    (tmp_path / 'a.json').write_text(json.dumps(data))
    config = dict(type='CocoDataset', ann_file=str(tmp_path / 'a.json'), serialize_data=False, data_prefix=dict(img=''))
    dataset = DATASETS.build(config | dict(metainfo=dict(classes=CLASSES), filter_cfg=filter_cfg))
    assert len(dataset) == left


def test_a_file_without_annotations_will_do_where_nothing_is_evaluated():
    edit = lambda data: data.pop('annotations')  # noqa: E731
    assert look(edit, without=True)[0].refused == []


def test_run_lengths_add_up_to_the_masks_of_pycocotools():
    rng = np.random.default_rng(0)
    masks = [np.asfortranarray(rng.random(rng.integers(1, 60, 2)) < share, np.uint8) for share in (0, 0.1, 0.5, 1) * 20]
    totals, negative = add_up([coco.encode(mask)['counts'].decode() for mask in masks])
    assert totals.tolist() == [mask.size for mask in masks]
    assert not negative.any()
