"""TensorFlow Datasets without TensorFlow: mocked, and from real files."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest

from fedjax_ls import data


@pytest.fixture
def tfds():
  return pytest.importorskip('tensorflow_datasets')


def _prepare(tfds, folder, name, version, sizes):
  """Writes what TFDS prepares, by hand: images (g, g, g) of class g mod 10."""
  image_lib = pytest.importorskip('PIL.Image')
  writer_lib = pytest.importorskip('array_record.python.array_record_module')
  from tensorflow_datasets.proto import tf_example_pb2

  root = folder / name / version
  root.mkdir(parents=True)
  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(28, 28, 1)),
      'label': tfds.features.ClassLabel(num_classes=10),
    }
  )
  features.save_config(root)
  infos = []
  for split, size in sizes.items():
    path = root / f'{name}-{split}.array_record-00000-of-00001'
    writer = writer_lib.ArrayRecordWriter(str(path), 'group_size:1')
    for level in range(size):
      file = io.BytesIO()
      image = np.full((28, 28), level, np.uint8)
      image_lib.fromarray(image).save(file, 'PNG')
      example = tf_example_pb2.Example()
      feature = example.features.feature
      feature['image'].bytes_list.value.append(file.getvalue())
      feature['label'].int64_list.value.append(level % 10)
      writer.write(example.SerializeToString())
    writer.close()
    infos.append(
      {
        'name': split,
        'shardLengths': [str(size)],
        'numBytes': '1',
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }
    )
  content = {
    'name': name,
    'version': version,
    'fileFormat': 'array_record',
    'moduleName': name,
    'splits': infos,
  }
  (root / 'dataset_info.json').write_text(json.dumps(content))


@pytest.mark.parametrize(
  ('name', 'shape', 'num_classes'),
  [('mnist', (28, 28, 1), 10), ('cifar100', (32, 32, 3), 100)],
)
def test_any_image_set_by_name(tfds, name, shape, num_classes):
  with tfds.testing.mock_data(num_examples=5):
    dataset = data.load(f'tfds:{name}')
  assert dataset.x_train.shape == dataset.x_test.shape == (5, *shape)
  assert dataset.x_train.dtype == np.uint8
  assert dataset.y_train.dtype == np.int32
  assert dataset.num_classes == num_classes


# One that TFDS has code for, and one that it knows from its folder alone.
@pytest.mark.parametrize(
  ('name', 'version', 'held_out'),
  [('mnist', '3.0.1', 'test'), ('own_set', '1.0.0', 'validation')],
)
def test_prepared_files_are_read(tfds, tmp_path, name, version, held_out):
  _prepare(tfds, tmp_path, name, version, {'train': 13, held_out: 4})
  dataset = data.load(f'tfds:{name}', str(tmp_path))
  assert dataset.y_train.tolist() == [*range(10), 0, 1, 2]
  assert dataset.y_test.tolist() == [0, 1, 2, 3]
  level = np.arange(13, dtype=np.uint8)[:, None, None, None]
  np.testing.assert_array_equal(
    dataset.x_train, np.broadcast_to(level, (13, 28, 28, 1))
  )
  assert dataset.num_classes == 10


def test_a_set_without_test_rows_is_refused(tfds, tmp_path):
  _prepare(tfds, tmp_path, 'own_set', '1.0.0', {'train': 3})
  with pytest.raises(ValueError, match=r"has the splits \['train'\]"):
    data.load('tfds:own_set', str(tmp_path))


def test_a_missing_set_gets_the_recipe(tfds, tmp_path):
  with pytest.raises(ValueError, match='prepare it once') as error:
    data.load('tfds:mnist', str(tmp_path))
  sentence = str(error.value)
  assert "file_format='array_record')" in sentence
  assert f"data_dir='{tmp_path}'" in sentence
  assert '\n' not in sentence


def test_a_broken_file_gets_the_recipe(tfds, tmp_path):
  _prepare(tfds, tmp_path, 'own_set', '1.0.0', {'train': 3, 'test': 1})
  (file,) = (tmp_path / 'own_set' / '1.0.0').glob('*-train.*')
  file.write_bytes(b'no records')
  with pytest.raises(ValueError, match='prepare it once'):
    data.load('tfds:own_set', str(tmp_path))


def test_names_that_are_no_image_set(tfds, tmp_path):
  with pytest.raises(ValueError, match=r'neither a set.*catalog for the names'):
    data.load('tfds:no_such_set', str(tmp_path))
  with pytest.raises(ValueError, match="add it, such as 'tfds:mnist'"):
    data.load('tfds')
  with (
    tfds.testing.mock_data(num_examples=1),
    pytest.raises(ValueError, match='images of many sizes'),
  ):
    data.load('tfds:imagenet2012')
  with (
    tfds.testing.mock_data(num_examples=1),
    pytest.raises(ValueError, match='no image with one class'),
  ):
    data.load('tfds:penguins')


def test_tensorflow_stays_out(tfds):
  del tfds
  code = (
    'import sys, tensorflow_datasets as tfds\n'
    'from fedjax_ls import data\n'
    'with tfds.testing.mock_data(num_examples=2):\n'
    "  data.load('tfds:mnist')\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)


def test_the_package_is_named_when_missing(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(ValueError, match='needs tensorflow-datasets; install'):
    data.load('tfds:mnist')
