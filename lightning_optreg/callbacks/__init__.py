"""Lightning callbacks that change, check or record the training of any network."""

from lightning_optreg.callbacks.batches.batch_augmentation import BatchAugmentation
from lightning_optreg.callbacks.batches.curriculum import Curriculum
from lightning_optreg.callbacks.batches.label_smoothing import LabelSmoothing
from lightning_optreg.callbacks.batches.mix_up import CutMix, MixUp
from lightning_optreg.callbacks.evaluation.batch_norm_recalibration import BatchNormRecalibration
from lightning_optreg.callbacks.evaluation.noise_marginalization import NoiseMarginalization
from lightning_optreg.callbacks.evaluation.noisy_ensemble import NoisyEnsemble
from lightning_optreg.callbacks.evaluation.snapshot_ensemble import SnapshotEnsemble
from lightning_optreg.callbacks.evaluation.test_time_augmentation import TestTimeAugmentation
from lightning_optreg.callbacks.privacy.differential_privacy import DifferentialPrivacy
from lightning_optreg.callbacks.records.curves import Curves
from lightning_optreg.callbacks.records.histograms import Histograms
from lightning_optreg.callbacks.records.prediction_writer import PredictionWriter
from lightning_optreg.callbacks.records.throughput import Throughput
from lightning_optreg.callbacks.resume.exact_resume import ExactResume
from lightning_optreg.callbacks.robustness.adversarial_training import AdversarialTraining
from lightning_optreg.callbacks.robustness.robustness_evaluation import RobustnessEvaluation
from lightning_optreg.callbacks.steps.adam_restarts import AdamRestarts
from lightning_optreg.callbacks.steps.adam_to_sgd import AdamToSGD
from lightning_optreg.callbacks.steps.batch_size_growth import BatchSizeGrowth
from lightning_optreg.callbacks.steps.early_stopping import EarlyStopping
from lightning_optreg.callbacks.steps.full_batch import FullBatch
from lightning_optreg.callbacks.steps.noise_free import NoiseFree
from lightning_optreg.callbacks.steps.reset_optimizer import ResetOptimizer
from lightning_optreg.callbacks.weights.gradient_noise import GradientNoise
from lightning_optreg.callbacks.weights.max_norm import MaxNorm
from lightning_optreg.callbacks.weights.nan_guard import NaNGuard
from lightning_optreg.callbacks.weights.patch_whitening import PatchWhitening
from lightning_optreg.callbacks.weights.penalties import ElasticNet, L1Penalty, L2Penalty

__all__ = [
    "AdamRestarts",
    "AdamToSGD",
    "AdversarialTraining",
    "BatchAugmentation",
    "BatchNormRecalibration",
    "BatchSizeGrowth",
    "Curriculum",
    "Curves",
    "CutMix",
    "DifferentialPrivacy",
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
    "PatchWhitening",
    "PredictionWriter",
    "ResetOptimizer",
    "RobustnessEvaluation",
    "SnapshotEnsemble",
    "TestTimeAugmentation",
    "Throughput",
]
