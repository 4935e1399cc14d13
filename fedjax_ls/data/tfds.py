"""Image classification sets of TensorFlow Datasets, read without TensorFlow.

`as_data_source` reads data that were prepared as array_record with NumPy
alone; preparing them takes TensorFlow, once and anywhere.
"""

from typing import Any

import numpy as np

from fedjax_ls.data import checks


def read(path: str, *, variant: str = '') -> dict[str, Any]:
  """Reads `data.name = 'tfds:NAME'` from the data_dir `data.path`.

  The image and the label are the set's supervised pair where it has one, and
  the features called so otherwise.  The test set is the split `test`, or
  `validation` where there is none.  Images come out as stored by the set;
  those of `emnist` lie transposed.

  Args:
    path: TFDS's data_dir, empty for its default (`~/tensorflow_datasets`, or
      the environment variable TFDS_DATA_DIR).
    variant: name of the set, `NAME`, `NAME/CONFIG` or `NAME:VERSION`.

  Returns:
    The arrays; images keep their type.

  Raises:
    ValueError: an unknown name, data that are not prepared or cannot be read
      without TensorFlow (with the recipe), or no images of one size with one
      class each.

  References:
    https://www.tensorflow.org/datasets/tfless_tfds
  """
  checks.require(
    bool(variant),
    "data.name = 'tfds' names no set; add it, such as 'tfds:mnist'",
  )
  try:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError
  except ImportError as error:
    raise ValueError(
      f"data.name = 'tfds:{variant}' needs tensorflow-datasets; install it "
      "with pip install 'tensorflow-datasets>=4.9.8'"
    ) from error
  try:
    builder = tfds.builder(variant, data_dir=path or None)
  except DatasetNotFoundError as error:
    raise ValueError(
      f"data.name = 'tfds:{variant}' is neither a set of TensorFlow Datasets "
      f'nor prepared in data.path = {path!r}; see '
      'https://www.tensorflow.org/datasets/catalog for the names'
    ) from error
  except Exception as error:
    # The code of some sets imports TensorFlow itself.
    raise ValueError(_recipe(variant, path, error)) from error
  image, label = _features(builder.info, variant)
  arrays: dict[str, Any] = {
    'num_classes': builder.info.features[label].num_classes
  }
  for split, name in (('train', 'train'), ('test', _test(builder, variant))):
    try:
      source = builder.as_data_source(name)
      x, y = zip(*((e[image], e[label]) for e in source), strict=True)
    except Exception as error:
      # Each builder fails in its own way where its data are missing.
      raise ValueError(_recipe(variant, path, error)) from error
    arrays[f'x_{split}'] = np.stack(x)
    arrays[f'y_{split}'] = np.array(y)
  return arrays


def _recipe(variant: str, path: str, error: Exception) -> str:
  folder = path or '~/tensorflow_datasets'
  why = str(error).partition('\n')[0].removesuffix(' Possible root causes:')
  return (
    f"data.name = 'tfds:{variant}' cannot be read without TensorFlow in "
    f'data.path = {folder!r} ({why}); prepare it once where TensorFlow is '
    'installed (pip install tensorflow tensorflow-datasets) by python -c '
    f"\"import tensorflow_datasets as t; t.builder('{variant}', "
    f"data_dir='{folder}', file_format='array_record')"
    '.download_and_prepare()" and bring that folder here'
  )


def _features(info: Any, variant: str) -> tuple[str, str]:
  """Names of the image and of its label."""
  from tensorflow_datasets import features

  pair = info.supervised_keys or ('image', 'label')
  kinds = features.Image, features.ClassLabel
  good = (
    len(pair) == 2
    and all(isinstance(name, str) and name in info.features for name in pair)
    and all(
      isinstance(info.features[name], kind)
      for name, kind in zip(pair, kinds, strict=True)
    )
  )
  checks.require(
    good,
    f"data.name = 'tfds:{variant}' has the features {list(info.features)} but "
    'no image with one class; choose an image classification set',
  )
  shape = info.features[pair[0]].shape
  checks.require(
    None not in shape,
    f"data.name = 'tfds:{variant}' has images of many sizes, {shape}; resize "
    "them, save them with numpy.savez and use data.name = 'npz'",
  )
  return pair


def _test(builder: Any, variant: str) -> str:
  """The split to test on; a set knows its splits once it is prepared."""
  splits = list(builder.info.splits) or ['train', 'test']
  found = [name for name in ('test', 'validation') if name in splits]
  checks.require(
    bool(found) and 'train' in splits,
    f"data.name = 'tfds:{variant}' has the splits {splits}; choose a set with "
    'train, and test or validation',
  )
  return found[0]
