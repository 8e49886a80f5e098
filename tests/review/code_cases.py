"""What each rule of the code checks must find, and the right way beside it, which it must leave alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A fault on `line` of `faulty`; `fix` is part of the code that the issue proposes."""

    rule: str
    line: int
    fix: str
    faulty: str
    right: str


CASES = (
    Case(
        "syntax-error",
        1,
        "py_compile",
        """\
def f(:
    pass
""",
        """\
def f():
    pass
""",
    ),
    Case(
        "syntax-error",
        2,
        "py_compile",
        """\
x = 1
return x
""",
        """\
def f(x):
    return x
""",
    ),
    Case(
        "F821",
        2,
        "return theta_e",
        """\
def f(theta_e):
    return tetha_e
""",
        """\
def f(theta_e):
    return theta_e
""",
    ),
    Case(
        "F821",
        4,
        "row = …",
        """\
import numpy as np


def f(x: 'row') -> int:
    return np.sum(x)
""",
        """\
import numpy as np
from jaxtyping import Float


def f(x: Float[np.ndarray, "row"]) -> int:
    return np.sum(x)
""",
    ),
    Case(
        "F811",
        5,
        "def f_again",
        """\
def f():
    return 1


def f():
    return 2
""",
        """\
def f():
    return 1
""",
    ),
    Case(
        "E722",
        4,
        "from error",
        """\
def f():
    try:
        g = 1 / 0
    except:
        g = 2
    return g
""",
        """\
def f():
    try:
        g = 1 / 0
    except ZeroDivisionError:
        g = 2
    return g
""",
    ),
    Case(
        "BLE001",
        4,
        "return g()",
        """\
def f(g):
    try:
        return g()
    except Exception:
        return 0
""",
        """\
def f(g):
    try:
        return g()
    except Exception as e:
        raise OSError from e
""",
    ),
    Case(
        "S110",
        4,
        "raise RuntimeError",
        """\
def f(g):
    try:
        g()
    except Exception:
        pass
""",
        """\
import contextlib


def f(g):
    with contextlib.suppress(OSError):
        g()
""",
    ),
    Case(
        "S112",
        5,
        "raise RuntimeError",
        """\
def f(g):
    for x in g:
        try:
            x()
        except Exception:
            continue
""",
        """\
def f(g):
    for x in g:
        x()
""",
    ),
    Case(
        "NPY002",
        5,
        "return rng.standard_normal(n)",
        """\
import numpy as np


def f(n):
    return np.random.randn(n)
""",
        """\
import numpy as np


def f(n):
    return np.random.default_rng(1).normal(n)
""",
    ),
    Case(
        "S301",
        5,
        "weights_only=True",
        """\
import pickle


def f(x):
    return pickle.loads(x)
""",
        """\
import json


def f(x):
    return json.loads(x)
""",
    ),
    Case(
        "S602",
        5,
        "shlex.split('ls ' + x)",
        """\
import subprocess


def f(x):
    subprocess.run('ls ' + x, shell=True, check=True)
""",
        """\
import subprocess


def f(x):
    subprocess.run(['ls', x], check=True)
""",
    ),
    Case(
        "S605",
        5,
        "check=True",
        """\
import os


def f(x):
    os.system('ls ' + x)
""",
        """\
import os


def f(x):
    os.remove(x)
""",
    ),
    Case(
        "B006",
        1,
        "def f(x=None):\n    if x is None:",
        """\
def f(x=[]):
    return x
""",
        """\
def f(x=()):
    return x
""",
    ),
    Case(
        "salted-hash-seed",
        5,
        "default_rng(int.from_bytes(hashlib",
        """\
from numpy.random import default_rng


def f(x):
    return default_rng(hash(x))
""",
        """\
from darkhaloscope.contracts.random import stream


def f(x):
    return stream(1, 'a', x)
""",
    ),
    Case(
        "salted-hash-seed",
        2,
        "str(x).encode()",
        """\
def f(x):
    seed = hash(x) + 1
    return seed
""",
        """\
def hash(x):
    return 7


def f(x):
    seed = hash(x)
    return seed
""",
    ),
    Case(
        "salted-hash-seed",
        2,
        ") % 10",
        """\
def f(brick):
    return hash(brick) % 10
""",
        """\
class A:
    def __hash__(self):
        return hash((1, 2))
""",
    ),
    Case(
        "unseeded-rng",
        5,
        "return stream(seed",
        """\
import numpy as np


def f():
    return np.random.default_rng()
""",
        """\
import numpy as np


def f():
    return np.random.default_rng(3)
""",
    ),
    Case(
        "unseeded-rng",
        5,
        "rng.integers(1, 6)",
        """\
from random import randint


def f():
    return randint(1, 6)
""",
        """\
class D:
    def randint(self, a, b):
        return a + b


x = D().randint(1, 6)
""",
    ),
    Case(
        "vendor-import",
        1,
        "    import pyspark.sql as sql",
        """\
import pyspark.sql as sql


def f():
    return sql
""",
        """\
def f():
    import pyspark.sql as sql

    return sql
""",
    ),
    Case(
        "vendor-import",
        1,
        "def work",
        """\
from boto3 import client


def f():
    return client
""",
        """\
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import boto3


def f(x: 'boto3.Session'):
    return x
""",
    ),
    Case(
        "module-level-optional-import",
        1,
        "    import boto3",
        """\
try:
    import boto3
except ImportError:
    boto3 = None
""",
        """\
try:
    import tomllib
except ImportError:
    import tomli as tomllib
""",
    ),
    Case(
        "mock-result",
        4,
        "raise",
        """\
def validate(m):
    try:
        return m.run()
    except Exception:
        return {'auroc': 0.99, 'passed': True}
""",
        """\
def validate(m):
    try:
        return m.run()
    except OSError:
        return {'passed': False}
""",
    ),
    Case(
        "mock-result",
        4,
        "except ValueError as error",
        """\
def check(m):
    try:
        m()
    except ValueError:
        return True
    return m.fine
""",
        """\
def is_missing(p):
    try:
        p.stat()
    except FileNotFoundError:
        return True
    return False
""",
    ),
    Case(
        "mock-result",
        4,
        "from error",
        """\
def f(m, result):
    try:
        m()
    except OSError:
        result.passed = True
""",
        """\
def f(m, result):
    try:
        m()
    except OSError:
        result.passed = False
""",
    ),
    Case(
        "swallowed-exception",
        4,
        "raise",
        """\
def f(g):
    try:
        g()
    except ValueError as e:
        print(e)
""",
        """\
def f(g, log):
    try:
        g()
    except ValueError as e:
        log.error(e)
        raise
""",
    ),
    Case(
        "swallowed-exception",
        5,
        "except ValueError as error",
        """\
def f(rows, log):
    for row in rows:
        try:
            row()
        except ValueError:
            log.warning('bad row')
            continue
""",
        """\
def f(get):
    for _ in range(3):
        try:
            return get()
        except TimeoutError:
            continue
    raise OSError('three times')
""",
    ),
    Case(
        "swallowed-exception",
        7,
        "raise",
        """\
import logging


def f(g):
    try:
        g()
    except Exception:
        logging.exception('failed')
        return None
    return 1
""",
        """\
def f(p):
    try:
        return p.read_text()
    except FileNotFoundError:
        return None
""",
    ),
    Case(
        "swallowed-exception",
        4,
        "except OSError as error",
        """\
def f(g):
    try:
        g()
    except OSError:
        pass
""",
        """\
def f(g):
    try:
        return g.cached
    except AttributeError:
        pass
    try:
        g.value = next(g)
    except StopIteration:
        pass
    return g.value
""",
    ),
    Case(
        "import-time-work",
        3,
        "def main()",
        """\
import shutil

for name in ('a', 'b'):
    shutil.rmtree(name)
""",
        """\
import shutil

if __name__ == '__main__':
    for name in ('a', 'b'):
        shutil.rmtree(name)
""",
    ),
    Case(
        "import-time-work",
        3,
        "__main__",
        """\
DEBUG = 1
if DEBUG:
    with open('a') as f:
        TEXT = f.read()
""",
        """\
NAMES = [n for n in ('a', 'b')]
""",
    ),
    Case(
        "hardcoded-number",
        2,
        "return x * PIXEL_SCALE_ARCSEC",
        """\
def f(x):
    return x * 0.262
""",
        """\
def f(x):
    return x * 0.263
""",
    ),
    Case(
        "hardcoded-number",
        2,
        "survey.release import ZERO_POINT",
        """\
def f(x):
    return 22.5 - x
""",
        """\
def f(x):
    '''22.5'''
    return 22 - x
""",
    ),
    Case(
        "hardcoded-number",
        2,
        "MAD_TO_STD * x",
        """\
def f(x):
    return 1.4826 * x
""",
        """\
from darkhaloscope.survey.photometry import MAD_TO_STD


def f(x):
    return MAD_TO_STD * x
""",
    ),
    Case(
        "hardcoded-number",
        1,
        'V1["core_lr_auc"].high',
        """\
CORE_LR_AUC_MAX = 0.65
""",
        """\
AXIS_RATIO = 0.65
""",
    ),
    Case(
        "hardcoded-number",
        1,
        "cluster.vcore_budget",
        """\
MAX_VCORES = 284
""",
        """\
PAGE = 284
""",
    ),
    Case(
        "hardcoded-number",
        2,
        "region_name=cluster.region",
        """\
def f(client):
    return client('s3', region_name='us-west-2')
""",
        """\
def f(client, region):
    return client('s3', region_name=region)
""",
    ),
    Case(
        "flipped-gate",
        2,
        'V1["core_lr_auc"].holds(core_lr_auc)',
        """\
def f(core_lr_auc, bound):
    passed = core_lr_auc > bound
    return passed
""",
        """\
def f(core_lr_auc, bound):
    passed = core_lr_auc < bound
    return passed
""",
    ),
    Case(
        "flipped-gate",
        2,
        "holds(m['auroc_synth'])",
        """\
def f(m, bound):
    return {'passed': m['auroc_synth'] < bound}
""",
        """\
def f(m, bound):
    return {'failed': m['auroc_synth'] < bound}
""",
    ),
    Case(
        "flipped-gate",
        2,
        'if not V1["hardneg_auroc"]',
        """\
def f(m, bound):
    if m.hardneg_auroc > bound:
        raise ValueError
""",
        """\
def f(m, bound):
    if not m.hardneg_auroc > bound:
        raise ValueError
""",
    ),
    Case(
        "flipped-gate",
        2,
        "return V1",
        """\
def passes(core_masked_drop, core_masked_drop_max):
    return core_masked_drop_max <= core_masked_drop
""",
        """\
def passes(core_masked_drop, core_masked_drop_max):
    return core_masked_drop < core_masked_drop_max
""",
    ),
    Case(
        "ungrouped-folds",
        5,
        "groups=hosts",
        """\
from sklearn.model_selection import StratifiedKFold


def f():
    return StratifiedKFold(n_splits=5)
""",
        """\
from sklearn.model_selection import StratifiedGroupKFold


def f():
    return StratifiedGroupKFold(n_splits=5)
""",
    ),
    Case(
        "ungrouped-folds",
        5,
        "cross_val_score(m, x, y, groups=hosts",
        """\
from sklearn.model_selection import cross_val_score


def f(m, x, y):
    return cross_val_score(m, x, y, cv=5)
""",
        """\
from sklearn.model_selection import cross_val_score, GroupKFold


def f(m, x, y, hosts):
    return cross_val_score(m, x, y, groups=hosts, cv=GroupKFold(5))
""",
    ),
    Case(
        "ungrouped-folds",
        5,
        "GroupShuffleSplit",
        """\
from sklearn.model_selection import train_test_split


def f(x, y):
    return train_test_split(x, y)
""",
        """\
from sklearn.model_selection import train_test_split


def f(hosts):
    return train_test_split(hosts, random_state=1)
""",
    ),
    Case(
        "in-sample-gate",
        3,
        "cross_val_predict(model, x, y",
        """\
def f(model, x, y):
    model.fit(x, y)
    return model.predict_proba(x)
""",
        """\
def f(model, x, y, x_test):
    model.fit(x, y)
    return model.predict_proba(x_test)
""",
    ),
    Case(
        "in-sample-gate",
        3,
        "cross_val_score",
        """\
def f(make, x, y):
    model = make().fit(x, y)
    return model.score(x, y)
""",
        """\
def f(make, x, y, test):
    model = make().fit(x, y)
    x = test
    return model.score(x, y)
""",
    ),
    Case(
        "in-sample-gate",
        2,
        "decision_function",
        """\
def f(make, x, y):
    return make().fit(x, y).decision_function(x)
""",
        """\
def f(make, x, y):
    return make().fit(x, y).transform(x)
""",
    ),
    Case(
        "unread-config-field",
        6,
        "config.seeing",
        """\
from darkhaloscope.contracts.config import Frozen


class Recipe(Frozen):
    depth: float = 1.0
    seeing: float = 2.0


def f(r: Recipe):
    return r.depth
""",
        """\
from darkhaloscope.contracts.config import Frozen


class Recipe(Frozen):
    depth: float = 1.0
    seeing: float = 2.0


def f(r: Recipe):
    return r.depth, getattr(r, 'seeing')
""",
    ),
    Case(
        "unread-config-field",
        6,
        "TrainConfig",
        """\
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    rate: float
""",
        """\
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    rate: float
""",
    ),
    Case(
        "integer-centre",
        2,
        "center = (size - 1) / 2",
        """\
def f(size):
    center = size // 2
    return center
""",
        """\
def f(size):
    percent = size // 2
    return percent
""",
    ),
    Case(
        "integer-centre",
        2,
        "(x.shape[1] - 1) / 2",
        """\
def f(x):
    cy, cx = x.shape[0] // 2, x.shape[1] // 2
    return cy, cx
""",
        """\
def f(x):
    center_x = (x.shape[0] - 1) / 2
    return center_x
""",
    ),
    Case(
        "split-args",
        5,
        "shlex.split(line)",
        """\
import subprocess


def f(line):
    subprocess.run(line.split(), check=True)
""",
        """\
import shlex
import subprocess


def f(line):
    subprocess.run(shlex.split(line), check=True)
""",
    ),
    Case(
        "split-args",
        2,
        "'Args': shlex.split(text)",
        """\
def f(text):
    return {'Type': 'Spark', 'Args': text.split(' ')}
""",
        """\
def f(text):
    return {'Words': text.split()}
""",
    ),
    Case(
        "schema-columns",
        2,
        '"theta_e_arcsec"',
        """\
def f(t):
    return t['theta_e_arcsecs']
""",
        """\
def f(t):
    return t['theta_e_arcsec'], t['psf_kind']
""",
    ),
    Case(
        "schema-columns",
        2,
        '"ctrl_stamp_npz"',
        """\
def f(pq, p):
    return pq.read_table(p, columns=['stamp_npz', 'ctl_stamp_npz'])
""",
        """\
def f(t):
    t['ctl_stamp_npz'] = 1
    return t['ctl_stamp_npz']
""",
    ),
    Case(
        "silent-noqa",
        1,
        "F401 - the reason",
        """\
import os  # noqa: F401
""",
        """\
import os  # noqa: F401 - re-exported
""",
    ),
    Case(
        "silent-noqa",
        1,
        "RULE - the reason",
        """\
import os  # noqa
""",
        """\
TEXT = 'import os  # noqa'
""",
    ),
)
