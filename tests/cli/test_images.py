import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmsec.cli.images import check_outputs, find_images
from mmsec.datasets.image_files import read_image
from mmsec.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ('a/cat.jpg', 'a/deep/cat.JPG', 'b/cat.jpg', 'b/cat.png', 'b/notes.txt'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    return tmp_path


def named(found, folder):
    return {str(path.relative_to(folder)): str(name) for path, name in found.items()}


def test_folders_are_searched_and_no_two_names_are_the_same(folder):
    assert named(find_images([str(folder)]), folder) == {
        'a/cat.jpg': 'a/cat',
        'a/deep/cat.JPG': 'a/deep/cat',
        'b/cat.jpg': 'b/cat.jpg',
        'b/cat.png': 'b/cat.png',
    }


def test_a_suffix_that_looks_like_another_images_name_is_kept(tmp_path):
    for name in ('cat.jpg', 'cat.png', 'cat.jpg.bmp', 'dog.v2.png'):
        (tmp_path / name).write_bytes(b'')
    names = named(find_images([str(tmp_path)]), tmp_path)
    assert names == {'cat.jpg': 'cat.jpg', 'cat.png': 'cat.png', 'cat.jpg.bmp': 'cat.jpg.bmp', 'dog.v2.png': 'dog.v2'}


def test_files_patterns_and_repetitions_with_names_inside_the_folder_they_are_written_to(folder, monkeypatch):
    inputs = [str(folder / 'b/*.png'), str(folder / 'a/cat.jpg'), str(folder / 'a/cat.jpg')]
    assert named(find_images(inputs), folder) == {'b/cat.png': 'b/cat', 'a/cat.jpg': 'a/cat'}
    monkeypatch.chdir(folder / 'a')
    found = find_images(['cat.jpg', '../b/cat.png', '../a/cat.jpg'])
    assert found == {Path('cat.jpg'): Path('a/cat'), Path('../b/cat.png'): Path('b/cat')}
    assert find_images(['cat.jpg']) == {Path('cat.jpg'): Path('cat')}


def test_no_image_is_written_over(folder):
    images = find_images([str(folder / 'b')])  # both cats keep their suffix
    check_outputs(images, folder / 'b')
    (folder / 'b/cat.jpg').unlink()
    images = find_images([str(folder / 'b')])
    check_outputs(images, folder / 'out')
    check_outputs(images, folder / 'b', '_labels.png')
    with pytest.raises(InputError, match=r"cat.png' is one of the images; choose another folder"):
        check_outputs(images, folder / 'b')


@pytest.mark.parametrize(
    ('name', 'message'),
    [('absent.jpg', "'absent.jpg' not found"), ('nowhere/*.png', 'not found'), ('EMPTY', 'no image in folder')],
)
def test_an_input_that_names_nothing(tmp_path, name, message):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match=message):
        find_images([str(tmp_path / 'empty') if name == 'EMPTY' else name])


def test_reading(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    assert np.array_equal(read_image(tmp_path / 'grey.png'), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(read_image(tmp_path / 'grey.png', 1), grey[..., None])
    colour = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    cv2.imwrite(str(tmp_path / 'colour.png'), colour)
    assert np.array_equal(read_image(tmp_path / 'colour.png', 4), colour)
    with pytest.raises(InputError, match=r"grey.png' is an image of 1 channels, the backbone takes 4"):
        read_image(tmp_path / 'grey.png', 4)


@pytest.mark.parametrize('content', [b'no image', b'', b'\xff\xd8' + b'\xff' * 2**20, None])
def test_what_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / 'broken.jpg').write_bytes(content)
    with pytest.raises(InputError, match=r"broken.jpg' is not an image that can be read: \S"):
        read_image(tmp_path / 'broken.jpg')


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    with pytest.raises(InputError, match='it is no file'):
        read_image(tmp_path / 'pipe.jpg')
