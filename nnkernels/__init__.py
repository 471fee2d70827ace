"""Train small dense networks at the speed of the hardware, with gradients you can trust.

>>> import numpy as np, nnkernels as nnk
>>> x = np.linspace(0, 1, 500)
>>> net = nnk.Sequential(nnk.Dense(1, 10, activation="sigmoid"), nnk.Dense(10, 1), device="cpu", rng=0)
>>> history = net.fit(x, np.sin(6 * x), loss="mean_squared_error", optimizer=nnk.Adam(0.05), steps=1_000)
>>> bool(net.evaluate(x, np.sin(6 * x), loss="mean_squared_error") < 0.05)
True
"""

from nnkernels import backends as backends
from nnkernels._callbacks import Callback as Callback
from nnkernels._callbacks import EarlyStopping as EarlyStopping
from nnkernels._callbacks import Progress as Progress
from nnkernels._device import Device as Device
from nnkernels._device import DeviceStatus as DeviceStatus
from nnkernels._device import device as device
from nnkernels._device import devices as devices
from nnkernels._diagnosis import HealthCheck as HealthCheck
from nnkernels._diagnosis import check_gradients as check_gradients
from nnkernels._diagnosis import diagnose as diagnose
from nnkernels._diagnosis import health as health
from nnkernels._ensemble import Ensemble as Ensemble
from nnkernels._ensemble_training import EnsembleHistory as EnsembleHistory
from nnkernels._ensemble_training import EnsembleProgress as EnsembleProgress
from nnkernels._errors import BackendUnavailable as BackendUnavailable
from nnkernels._errors import DataError as DataError
from nnkernels._errors import DeviceError as DeviceError
from nnkernels._errors import DeviceMemoryError as DeviceMemoryError
from nnkernels._errors import DivergenceError as DivergenceError
from nnkernels._errors import KernelFault as KernelFault
from nnkernels._errors import ModelFileError as ModelFileError
from nnkernels._errors import NnkernelsError as NnkernelsError
from nnkernels._errors import PlanError as PlanError
from nnkernels._errors import ShapeError as ShapeError
from nnkernels._initializers import Constant as Constant
from nnkernels._initializers import Glorot as Glorot
from nnkernels._initializers import He as He
from nnkernels._initializers import Initializer as Initializer
from nnkernels._initializers import LeCun as LeCun
from nnkernels._initializers import Normal as Normal
from nnkernels._initializers import Orthogonal as Orthogonal
from nnkernels._initializers import Uniform as Uniform
from nnkernels._io.model_file import load as load
from nnkernels._layers import Activation as Activation
from nnkernels._layers import Dense as Dense
from nnkernels._losses import AbsoluteError as AbsoluteError
from nnkernels._losses import BinaryCrossEntropy as BinaryCrossEntropy
from nnkernels._losses import CategoricalCrossEntropy as CategoricalCrossEntropy
from nnkernels._losses import HalfSquaredError as HalfSquaredError
from nnkernels._losses import Huber as Huber
from nnkernels._losses import Loss as Loss
from nnkernels._losses import MeanSquaredError as MeanSquaredError
from nnkernels._losses import Poisson as Poisson
from nnkernels._network import Sequential as Sequential
from nnkernels._optimizers import SGD as SGD
from nnkernels._optimizers import Adam as Adam
from nnkernels._optimizers import AdamW as AdamW
from nnkernels._optimizers import Optimizer as Optimizer
from nnkernels._optimizers import RMSprop as RMSprop
from nnkernels._plan import Plan as Plan
from nnkernels._schedules import ConstantSchedule as ConstantSchedule
from nnkernels._schedules import CosineSchedule as CosineSchedule
from nnkernels._schedules import ExponentialSchedule as ExponentialSchedule
from nnkernels._schedules import InverseScaling as InverseScaling
from nnkernels._schedules import Schedule as Schedule
from nnkernels._schedules import StepSchedule as StepSchedule
from nnkernels._schedules import WarmUp as WarmUp
from nnkernels._sweep import SweepResult as SweepResult
from nnkernels._sweep import sweep as sweep
from nnkernels._training import History as History
from nnkernels._version import __version__ as __version__
