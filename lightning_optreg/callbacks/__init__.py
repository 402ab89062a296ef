"""Things done to the training of any network, as Lightning callbacks."""

from lightning_optreg.callbacks.adam_restarts import AdamRestarts
from lightning_optreg.callbacks.adam_to_sgd import AdamToSGD
from lightning_optreg.callbacks.batch_augmentation import BatchAugmentation
from lightning_optreg.callbacks.batch_norm_recalibration import BatchNormRecalibration
from lightning_optreg.callbacks.batch_size_growth import BatchSizeGrowth
from lightning_optreg.callbacks.curriculum import Curriculum
from lightning_optreg.callbacks.curves import Curves
from lightning_optreg.callbacks.early_stopping import EarlyStopping
from lightning_optreg.callbacks.exact_resume import ExactResume
from lightning_optreg.callbacks.full_batch import FullBatch
from lightning_optreg.callbacks.gradient_noise import GradientNoise
from lightning_optreg.callbacks.histograms import Histograms
from lightning_optreg.callbacks.label_smoothing import LabelSmoothing
from lightning_optreg.callbacks.max_norm import MaxNorm
from lightning_optreg.callbacks.mix_up import CutMix, MixUp
from lightning_optreg.callbacks.nan_guard import NaNGuard
from lightning_optreg.callbacks.noise_free import NoiseFree
from lightning_optreg.callbacks.noise_marginalization import NoiseMarginalization
from lightning_optreg.callbacks.noisy_ensemble import NoisyEnsemble
from lightning_optreg.callbacks.penalties import ElasticNet, L1Penalty, L2Penalty
from lightning_optreg.callbacks.prediction_writer import PredictionWriter
from lightning_optreg.callbacks.reset_optimizer import ResetOptimizer
from lightning_optreg.callbacks.snapshot_ensemble import SnapshotEnsemble
from lightning_optreg.callbacks.test_time_augmentation import TestTimeAugmentation
from lightning_optreg.callbacks.throughput import Throughput

__all__ = [
    "AdamRestarts",
    "AdamToSGD",
    "BatchAugmentation",
    "BatchNormRecalibration",
    "BatchSizeGrowth",
    "Curriculum",
    "Curves",
    "CutMix",
    "EarlyStopping",
    "ElasticNet",
    "ExactResume",
    "FullBatch",
    "GradientNoise",
    "Histograms",
    "L1Penalty",
    "L2Penalty",
    "LabelSmoothing",
    "MaxNorm",
    "MixUp",
    "NaNGuard",
    "NoiseFree",
    "NoiseMarginalization",
    "NoisyEnsemble",
    "PredictionWriter",
    "ResetOptimizer",
    "SnapshotEnsemble",
    "TestTimeAugmentation",
    "Throughput",
]
