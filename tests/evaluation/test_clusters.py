import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from scipy.stats import hypergeom

from mmsec.evaluation.clusters import agreement, compactness, token_labels, tokens_inside


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def detected(masks, labels, ignored=()):
    sample = DetDataSample()
    sample.gt_instances = InstanceData(masks=BitmapMasks(masks, *masks.shape[1:]), labels=torch.tensor(labels))
    if len(ignored):
        kept = BitmapMasks(ignored, *ignored.shape[1:])
        sample.ignored_instances = InstanceData(masks=kept, labels=torch.zeros(len(ignored), dtype=torch.long))
    return sample


def test_tokens_take_the_smallest_instance_at_their_centre():
    masks = np.zeros((2, 8, 16), np.uint8)
    masks[0, 2:3, 6:7] = 1  # the centre of token (0, 1), and less than the other
    masks[1, :4, :] = 1
    labels = token_labels(detected(masks, [3, 0]), image_shape=(8, 16), map_shape=(2, 4), stride=4)
    assert labels.classes.reshape(2, 4).tolist() == [[1, 4, 1, 1], [0, 0, 0, 0]]
    assert labels.instances.reshape(2, 4).tolist() == [[1, 2, 1, 1], [0, 0, 0, 0]]


def test_masks_are_stretched_to_the_image_that_the_model_sees():
    masks = np.zeros((1, 4, 4), np.uint8)
    masks[0, :, 2:] = 1
    labels = token_labels(detected(masks, [0]), image_shape=(16, 16), map_shape=(2, 2), stride=8)
    assert labels.classes.reshape(2, 2).tolist() == [[0, 1], [0, 1]]


def test_what_is_ignored_or_outside_the_image_is_not_labelled():
    masks, ignored = np.ones((1, 8, 6), np.uint8), np.zeros((1, 8, 6), np.uint8)
    ignored[0, :4, :4] = 1
    labels = token_labels(detected(masks, [2], ignored), image_shape=(8, 6), map_shape=(3, 2), stride=4)
    assert labels.classes.reshape(3, 2).tolist() == [[-1, -1], [3, -1], [-1, -1]]
    assert labels.instances.reshape(3, 2).tolist() == [[-1, -1], [1, -1], [-1, -1]]


@pytest.mark.parametrize(('num_classes', 'wanted'), [(None, [0, 7, -1, 1]), (2, [0, -1, -1, 1])])
def test_segmentation_has_classes_only_and_255_and_what_is_no_class_are_no_label(num_classes, wanted):
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([[[0, 7], [255, 1]]])))
    labels = token_labels(sample, image_shape=(8, 8), map_shape=(2, 2), stride=4, num_classes=num_classes)
    assert labels.classes.tolist() == wanted
    assert labels.instances is None


def test_a_sample_without_masks_has_no_labels():
    assert token_labels(DetDataSample(), (8, 8), (2, 2), 4) is None
    sample = DetDataSample(gt_instances=InstanceData(labels=torch.tensor([1])))
    assert token_labels(sample, (8, 8), (2, 2), 4) is None


def test_clusters_that_are_the_labels_agree_fully_and_shuffled_ones_not_at_all(rng):
    labels = np.arange(4).repeat(100)
    assert agreement(labels, 3 - labels, rng) == pytest.approx((1, 1))
    shuffled = [agreement(labels, rng.permutation(labels), rng) for _ in range(50)]
    assert np.mean(shuffled, axis=0) == pytest.approx((0, 0), abs=0.01)


def test_halves_of_the_labels_are_pure_and_half_informative(rng):
    ami, purity = agreement(np.arange(2).repeat(500), np.arange(4).repeat(250), rng)
    assert purity == pytest.approx(1)
    assert ami == pytest.approx(2 / 3, abs=0.01)  # 2 log 2 / (log 2 + log 4)


def test_ami_is_corrected_by_the_expected_mutual_information(rng):
    """Against the exact expectation, a sum over hypergeometric counts (Vinh et al., JMLR 2010, equation 24a)."""
    labels, clusters = rng.integers(0, 3, 60), np.arange(60) % 4
    a, b = np.bincount(labels), np.bincount(clusters)
    expected = sum(
        hypergeom(60, i, j).pmf(n) * n / 60 * np.log(60 * n / (i * j))
        for i in a for j in b for n in range(1, min(i, j) + 1)
    )  # fmt: skip
    table = np.histogram2d(labels, clusters, bins=(3, 4))[0] / 60
    outer = np.outer(a, b) / 3600
    mutual = (table[table > 0] * np.log(table[table > 0] / outer[table > 0])).sum()
    mean_entropy = -sum((p * np.log(p)).sum() for p in (a / 60, b / 60)) / 2
    exact = (mutual - expected) / (mean_entropy - expected)
    measured = np.mean([agreement(labels, clusters, rng)[0] for _ in range(100)])
    assert measured == pytest.approx(exact, abs=0.005)


def test_unlabelled_tokens_do_not_count(rng):
    labels = np.arange(2).repeat(50)
    noisy = np.concatenate([labels, np.full(40, -1)])
    assert agreement(noisy, np.concatenate([labels, np.arange(40)]), rng) == pytest.approx((1, 1))


@pytest.mark.parametrize('labels', [[1, 1, 1], [-1, -1, -1], [-1, 4, 4]])
def test_nothing_to_compare(rng, labels):
    assert agreement(np.array(labels), np.arange(3), rng) is None


@pytest.mark.parametrize('clusters', [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_clusters_that_say_nothing_count_as_chance(rng, clusters):
    assert agreement(np.array([0, 1, 0, 1]), np.array(clusters), rng) == pytest.approx((0, 0))


def test_tokens_inside_have_their_centre_in_the_image():
    for size in range(1, 40):
        for stride in (4, 8, 16):
            count = max(1, int(((np.arange(9) + 0.5) * stride < size).sum()))
            assert tokens_inside((size, 99), (9, 2), stride)[0] == count


def test_compactness_is_the_share_of_variance_between_clusters():
    halves = np.zeros((4, 8), int)
    halves[:, 4:] = 1
    # Variance of columns 0..7 is 5.25, of rows 1.25; within a half the columns' is 1.25.
    assert compactness(halves) == pytest.approx(1 - (1.25 + 1.25) / (5.25 + 1.25))
    assert compactness(np.indices((4, 8)).sum(0) % 2) == pytest.approx(0, abs=0.01)
    assert compactness(np.arange(32).reshape(4, 8)) == 1
    assert compactness(np.zeros((1, 1), int)) is None
