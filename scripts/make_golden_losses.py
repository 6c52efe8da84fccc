"""Writer of tests/golden/losses.npz: values and gradients of public implementations of losses.

    python -m venv loss-env
    loss-env/bin/pip install torch==2.13.0 keras==3.15.1 numpy==2.4.6 scipy==1.17.1
    loss-env/bin/pip install --no-deps monai==1.6.1 kornia==0.9.0 kornia-rs==0.2.0 torchmetrics==1.9.0 \
        lightning-utilities==0.15.3 segmentation-models-pytorch==0.6.0 packaging
    loss-env/bin/python scripts/make_golden_losses.py

This script does not import unet_jax. Everything is computed in float64 if the package allows it. Each entry says where
its number comes from:

- 'package': the named function computed it.
- 'transcription': the formula of the paper or of the authors' program, written here in PyTorch, because no package
  among these has it. It is a second, independent transcription of the formula by the same people, so it finds slips,
  but not misunderstandings.

An entry is the mean over all values that the loss returns, and its gradient at the logits. An entry is named
LOSS/REFERENCE, and tests compare it with the loss of that name and the entry's `options`. An entry with `differs` is a
number of a package that computes something else than unet_jax; its test states the difference.
"""

import json
import os
import sys
import types
from importlib.metadata import version
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
import torch.nn.functional as F
from kornia.losses import HausdorffERLoss, binary_focal_loss_with_logits, lovasz_hinge_loss
from kornia.losses import ssim_loss as kornia_ssim
from monai import losses as ml
from monai.losses.unified_focal_loss import AsymmetricFocalLoss, AsymmetricFocalTverskyLoss
from monai.metrics import regression
from scipy import ndimage
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "losses.npz"
PINNED = {
    "torch": "2.13.0",
    "keras": "3.15.1",
    "monai": "1.6.1",
    "kornia": "0.9.0",
    "segmentation-models-pytorch": "0.6.0",
    "torchmetrics": "1.9.0",
    "numpy": "2.4.6",
    "scipy": "1.17.1",
}


def smp_losses():
    """Import the losses of segmentation_models_pytorch without its encoders, which need torchvision and timm."""
    import importlib.util

    spec = importlib.util.find_spec("segmentation_models_pytorch")
    assert spec is not None and spec.submodule_search_locations is not None
    stub = types.ModuleType("segmentation_models_pytorch")
    stub.__path__ = list(spec.submodule_search_locations)
    sys.modules["segmentation_models_pytorch"] = stub
    return importlib.import_module("segmentation_models_pytorch.losses")


# --- inputs: blobs of errors, so that erosions and skeletons have an effect -------------------------------------------


def make_inputs():
    """Return random logits, hard labels and soft labels: `[2 2 16 16]`, i.e. `[b k h w]`, float32."""
    rng = np.random.default_rng(7)
    shape = (2, 2, 16, 16)
    field = ndimage.gaussian_filter(rng.normal(size=shape), (0, 0, 2.0, 2.0))
    labels = (field > np.quantile(field, 0.6, axis=(2, 3), keepdims=True)).astype(np.float32)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, 0, 1.5, 1.5))
    logits = 3.0 * (labels - 0.4) + 12.0 * noise / noise.std() * 0.35 + rng.normal(0.0, 0.3, shape)
    soft = np.clip(ndimage.gaussian_filter(labels, (0, 0, 1.0, 1.0)), 0.0, 1.0).astype(np.float32)
    return logits.astype(np.float32), labels, soft


LOGITS, HARD, SOFT = make_inputs()
ENTRIES: dict[str, dict] = {}
ARRAYS: dict[str, np.ndarray] = {}


def entry(name, function, *, source, kind="package", options=None, labels="hard", differs=False, where=None):
    """Run `function(logits, labels) -> scalar` on `[b k h w]` in float64, and keep its value and gradient."""
    x = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(HARD if labels == "hard" else SOFT, dtype=torch.float64)
    value = function(x, t)
    (grad,) = torch.autograd.grad(value.double(), x)
    assert name not in ENTRIES and torch.isfinite(grad).all(), name
    ENTRIES[name] = {"source": source, "kind": kind, "options": options or {}, "labels": labels, "differs": differs}
    ARRAYS[name] = np.concatenate([[value.item()], grad.permute(0, 2, 3, 1).reshape(-1).numpy()]).astype(np.float32)
    # float32 stores each number of the gradient to 6e-8 of its size. The value is kept in float64.
    ENTRIES[name]["value"] = value.item()


def each(function):
    """Return the mean over images and classes of a loss of one `[1 1 h w]` pair."""

    def mean(x, t):
        values = [function(x[b : b + 1, k : k + 1], t[b : b + 1, k : k + 1]) for b in range(2) for k in range(2)]
        return torch.stack([v.reshape(()) for v in values]).mean()

    return mean


def edt(mask):
    """Return the Euclidean distance of each pixel of a mask to its outside, in pixels."""
    return torch.tensor(ndimage.distance_transform_edt(mask.numpy()))


# --- pixel ------------------------------------------------------------------------------------------------------------


def pixel_entries(smp):
    """Compute the entries of losses per pixel."""
    entry("bce/torch", F.binary_cross_entropy_with_logits, source="torch binary_cross_entropy_with_logits")
    entry("bce/soft", F.binary_cross_entropy_with_logits, source="the same, soft labels", labels="soft")
    entry("bce/smp", smp.SoftBCEWithLogitsLoss(ignore_index=None), source="smp SoftBCEWithLogitsLoss")
    pos_weight = torch.tensor([3.0, 0.5], dtype=torch.float64).reshape(2, 1, 1)
    entry(
        "weighted_bce/torch",
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=pos_weight),
        source="torch binary_cross_entropy_with_logits(pos_weight)",
        options={"pos_weight": [3.0, 0.5]},
    )
    keras.config.set_floatx("float64")
    smoothed = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1, dtype="float64")
    entry(
        "weighted_bce/keras",
        lambda x, t: smoothed(t, x),
        source="keras BinaryCrossentropy(label_smoothing=0.1)",
        options={"label_smoothing": 0.1},
    )
    balanced = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True, dtype="float64"
    )
    quarter = {"gamma": 2.0, "pos_weight": 0.25, "neg_weight": 0.75}
    entry("focal/keras", lambda x, t: balanced(t, x), source="keras BinaryFocalCrossentropy", options=quarter)
    focal = smp.FocalLoss("binary", alpha=0.25, gamma=2.0)
    entry("focal/smp", lambda x, t: focal(x, t), source="smp FocalLoss", options=quarter)
    monai = ml.FocalLoss(gamma=1.5, alpha=None, use_softmax=False)
    entry("focal/monai", monai, source="monai FocalLoss", options={"gamma": 1.5})
    entry(
        "focal/kornia",
        lambda x, t: binary_focal_loss_with_logits(x, t, alpha=0.25, gamma=2.0, reduction="mean"),
        source="kornia binary_focal_loss_with_logits",
        options=quarter,
    )

    def balanced_bce(x, t):
        share = 1.0 - t.mean()
        ce = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        return (torch.where(t > 0.5, share, 1.0 - share) * ce).mean()

    entry("balanced_bce/paper", each(balanced_bce), source="arXiv:1504.06375, eq. 2", kind="transcription")

    def topk(x, t):
        ce = F.binary_cross_entropy_with_logits(x, t, reduction="none").reshape(-1)
        return ce.topk(int(ce.numel() * 0.1)).values.mean()

    def border_bce(x, t):
        inside = edt(t > 0.5)
        outside = edt(t < 0.5)
        away = torch.where(t > 0.5, inside, outside) - 1.0
        factor = 1.0 + 10.0 * torch.exp(-(away**2) / (2.0 * 2.0**2))
        return (factor * F.binary_cross_entropy_with_logits(x, t, reduction="none")).mean()

    entry(
        "border_bce/paper",
        each(border_bce),
        source="arXiv:1505.04597, eq. 2, for one border; scipy's distances",
        kind="transcription",
        options={"border_width": 2.0},
    )
    entry(
        "soft_bootstrapped_bce/paper",
        lambda x, t: (
            -(
                (0.95 * t + 0.05 * x.sigmoid()) * F.logsigmoid(x)
                + (1 - 0.95 * t - 0.05 * x.sigmoid()) * F.logsigmoid(-x)
            ).mean()
        ),
        source="arXiv:1412.6596, eq. 6",
        kind="transcription",
    )
    entry(
        "hard_bootstrapped_bce/paper",
        lambda x, t: F.binary_cross_entropy_with_logits(x, 0.8 * t + 0.2 * (x > 0)),
        source="arXiv:1412.6596, eq. 7",
        kind="transcription",
    )
    entry(
        "topk_bce/nnunet",
        each(
            lambda x, t: (
                F.binary_cross_entropy_with_logits(x, t, reduction="none")
                .reshape(-1)
                .topk(int(256 * 0.1))
                .values.mean()
            )
        ),
        source="nnU-Net robust_ce_loss.py TopKLoss, per image and class",
        kind="transcription",
    )

    def p_t(x, t):
        return torch.where(t > 0.5, x.sigmoid(), (-x).sigmoid())

    entry(
        "poly1_bce/paper",
        lambda x, t: (F.binary_cross_entropy_with_logits(x, t, reduction="none") + 1.0 - p_t(x, t)).mean(),
        source="arXiv:2204.12511, eq. 5",
        kind="transcription",
    )
    entry(
        "poly1_focal/paper",
        lambda x, t: (-((1 - p_t(x, t)) ** 2) * p_t(x, t).log() + 2.0 * (1 - p_t(x, t)) ** 3).mean(),
        source="arXiv:2204.12511, section 4, epsilon 2",
        kind="transcription",
        options={"epsilon": 2.0},
    )

    def asymmetric(x, t):
        p = x.sigmoid()
        negative = (1.0 - p + 0.05).clamp(max=1.0)
        value = t * p.clamp(min=1e-8).log() + (1.0 - t) * negative.clamp(min=1e-8).log()
        with torch.no_grad():
            factor = (1.0 - p * t - negative * (1.0 - t)) ** (1.0 * t + 4.0 * (1.0 - t))
        return -(value * factor)

    asl = "Alibaba-MIIL/ASL losses.py AsymmetricLoss"
    entry("asymmetric/asl", lambda x, t: asymmetric(x, t).mean(), source=f"{asl}, mean for sum", kind="transcription")
    entry("asymmetric/asl_sum", lambda x, t: asymmetric(x, t).sum(), source=asl, kind="transcription", differs=True)


# --- overlap ----------------------------------------------------------------------------------------------------------


def overlap_entries(smp):
    """Compute the entries of losses of overlap."""
    dice = {"sigmoid": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
    name = "monai DiceLoss"
    entry("soft_dice/monai", ml.DiceLoss(**dice), source=name)
    entry("soft_dice/soft", ml.DiceLoss(**dice), source=f"{name}, soft labels", labels="soft")
    entry("class_soft_dice/monai", ml.DiceLoss(**dice, batch=True), source=f"{name}(batch=True)")
    entry(
        "batch_soft_dice/monai",
        lambda x, t: ml.DiceLoss(**dice, batch=True)(x.reshape(1, 1, -1, 16), t.reshape(1, 1, -1, 16)),
        source=f"{name}(batch=True) of all classes as one image",
    )
    entry("squared_dice/monai", ml.DiceLoss(**dice, squared_pred=True), source=f"{name}(squared_pred=True)")
    none = ml.DiceLoss(**dice, reduction="none")
    entry("log_dice/monai", lambda x, t: -(1.0 - none(x, t)).log().mean(), source=f"-log(1 - {name})")
    entry("log_cosh_dice/monai", lambda x, t: none(x, t).cosh().log().mean(), source=f"log cosh {name}")
    entry("jaccard/monai", ml.DiceLoss(**dice, jaccard=True), source=f"{name}(jaccard=True)", options={"smooth": 0.5})
    entry(
        "l1_dice/monai",
        ml.DiceLoss(**dice, soft_label=True),
        source=f"{name}(soft_label=True)",
        labels="soft",
    )
    entry(
        "l1_jaccard/monai",
        ml.DiceLoss(**dice, soft_label=True, jaccard=True),
        source=f"{name}(soft_label=True, jaccard=True)",
        labels="soft",
        options={"smooth": 0.5},
    )
    tversky = {"sigmoid": True, "alpha": 0.3, "beta": 0.7, "smooth_nr": 1.0, "smooth_dr": 1.0}
    entry("tversky/monai", ml.TverskyLoss(**tversky), source="monai TverskyLoss(alpha=0.3, beta=0.7)")
    entry(
        "l1_tversky/monai",
        ml.TverskyLoss(**tversky, soft_label=True),
        source="monai TverskyLoss(soft_label=True)",
        labels="soft",
    )
    each_tversky = ml.TverskyLoss(**tversky, reduction="none")
    entry("focal_tversky/monai", lambda x, t: (each_tversky(x, t) ** 0.75).mean(), source="monai TverskyLoss ** 0.75")
    general = {"sigmoid": True, "w_type": "square"}
    entry(
        "generalized_dice/monai",
        ml.GeneralizedDiceLoss(**general, smooth_nr=0.0, smooth_dr=0.0),
        source="monai GeneralizedDiceLoss, smooth 0",
        options={"smooth": 0.0},
    )
    entry(
        "generalized_dice/monai_smooth",
        ml.GeneralizedDiceLoss(**general, smooth_nr=0.01, smooth_dr=0.01),
        source="monai GeneralizedDiceLoss, smooth 0.01",
        differs=True,
    )
    entry(
        "l1_dice/smp",
        smp.DiceLoss("multilabel", smooth=1.0),
        source="smp DiceLoss(multilabel, smooth=1)",
        labels="soft",
        differs=True,
    )
    smp_mcc = smp.MCCLoss(eps=1.0)
    one = each(lambda x, t: smp_mcc(x.sigmoid()[:, 0], t[:, 0]))
    entry("mcc/smp", one, source="smp MCCLoss(eps=1), per image and class")
    entry(
        "mcc/monai",
        ml.MCCLoss(sigmoid=True, smooth_nr=0.0, smooth_dr=0.0),
        source="monai MCCLoss, smooth 0",
        options={"smooth": 1e-6},
    )
    entry(
        "soft_dice/keras",
        each(lambda x, t: keras.losses.dice(t.reshape(1, -1, 1, 1), x.sigmoid().reshape(1, -1, 1, 1))),
        source="keras losses.dice, per image and class",
        options={"smooth": 0.0},
    )
    entry(
        "tversky/keras",
        each(
            lambda x, t: keras.losses.tversky(
                t.reshape(1, -1, 1, 1), x.sigmoid().reshape(1, -1, 1, 1), alpha=0.2, beta=0.6
            )
        ),
        source="keras losses.tversky(alpha=0.2, beta=0.6), whose alpha multiplies FN, per image and class",
        options={"smooth": 0.0, "fp_weight": 0.6, "fn_weight": 0.2},
    )

    def sensitivity_specificity(x, t):
        error = (t - x.sigmoid()) ** 2
        sensitivity = (error * t).sum() / (t.sum() + 1.0)
        specificity = (error * (1 - t)).sum() / ((1 - t).sum() + 1.0)
        return 0.05 * sensitivity + 0.95 * specificity

    entry(
        "sensitivity_specificity/paper",
        each(sensitivity_specificity),
        source="Brosch et al. 2015, eq. 8, smooth 1",
        kind="transcription",
    )


# --- ranking and compound ---------------------------------------------------------------------------------------------


def compound_entries(smp):
    """Compute the entries of ranking losses and of losses that combine others."""
    hinge = each(lambda x, t: lovasz_hinge_loss(x, t[:, 0]))
    entry("lovasz_hinge/kornia", hinge, source="kornia lovasz_hinge_loss, per class")
    flat = smp.LovaszLoss("multilabel", per_image=False)
    entry(
        "lovasz_hinge/smp",
        lambda x, t: flat(x.float(), t.float()),
        source="smp LovaszLoss(multilabel), float32: classes as one",
        differs=True,
    )

    def combo(x, t):
        p = x.sigmoid()
        ce = -(0.4 * t * p.log() + 0.6 * (1 - t) * (1 - p).log()).mean()
        return 0.7 * ce - 0.3 * (2 * (p * t).sum() + 1.0) / (p.sum() + t.sum() + 1.0)

    options = {"ce_weight": 0.7, "pos_weight": 0.4}
    paper = "arXiv:1805.02798, eq. 3"
    entry(
        "combo/paper",
        each(lambda x, t: combo(x, t) + 0.3),
        source=f"{paper}, + 0.3",
        kind="transcription",
        options=options,
    )
    entry("combo/paper_offset", each(combo), source=paper, kind="transcription", options=options, differs=True)

    def unified(asymmetric):
        """Return the authors' loss for two classes, on the channels (1 - p, p): weight 0.5, delta 0.6, gamma 0.5."""

        def loss(x, t):
            p = torch.cat([(-x).sigmoid(), x.sigmoid()], 1)
            y = torch.cat([1 - t, t], 1)
            ce = -y * p.clamp(1e-7, 1 - 1e-7).log()
            back = 0.4 * (1 - p[:, 0]) ** 0.5 * ce[:, 0]
            fore = 0.6 * ce[:, 1] * (1.0 if asymmetric else (1 - p[:, 1]) ** 0.5)
            tp, fn, fp = ((a).sum((2, 3)) for a in (y * p, y * (1 - p), (1 - y) * p))
            index = (tp + 1e-7) / (tp + 0.6 * fn + 0.4 * fp + 1e-7)
            miss = 1 - index
            back_tversky = miss[:, 0] if asymmetric else miss[:, 0] ** 0.5
            tversky = torch.stack([back_tversky, miss[:, 1] ** 0.5], -1).mean()
            return 0.5 * tversky + 0.5 * (back + fore).mean()

        return each(loss)

    author = "mlyg/unified-focal-loss loss_functions.py"
    for kind in ("symmetric", "asymmetric"):
        entry(
            f"{kind}_unified_focal/author",
            unified(kind == "asymmetric"),
            source=f"{author} {kind[:-6]}_unified_focal_loss",
            kind="transcription",
            options={"smooth": 1e-7},
        )

    def two_channels(function):
        return each(lambda x, t: function(torch.cat([(-x).sigmoid(), x.sigmoid()], 1), torch.cat([1 - t, t], 1)))

    entry(
        "asymmetric_unified_focal/monai_tversky",
        two_channels(AsymmetricFocalTverskyLoss(delta=0.6, gamma=0.5)),
        source="monai AsymmetricFocalTverskyLoss(delta=0.6, gamma=0.5)",
        options={"smooth": 1e-7, "focal_weight": 0.0},
    )
    entry(
        "asymmetric_unified_focal/monai_focal",
        two_channels(AsymmetricFocalLoss(delta=0.6, gamma=0.5)),
        source="monai AsymmetricFocalLoss(delta=0.6, gamma=0.5)",
        differs=True,
    )


# --- distance and structure -------------------------------------------------------------------------------------------


def distance_entries():
    """Compute the entries of losses that measure distances."""
    entry("boundary/monai", ml.BoundaryLoss(sigmoid=True), source="monai BoundaryLoss")
    for channel, key in ((True, "hausdorff_dt/monai"), (False, "hausdorff_dt/monai_default")):
        loss = ml.HausdorffDTLoss(sigmoid=True, include_background=channel)
        source = f"monai HausdorffDTLoss(include_background={channel})"
        entry(key, loss, source=source, differs=not channel)
    erosion = HausdorffERLoss(alpha=2.0, k=4)
    entry(
        "hausdorff_erosion/kornia",
        each(lambda x, t: erosion.perform_erosion(x.sigmoid(), t).mean()),
        source="kornia HausdorffERLoss(k=4).perform_erosion",
        options={"num_erosions": 4},
    )


def structure_entries():
    """Compute the entries of losses of structure: centre lines, contours and SSIM."""
    exact = ml.SoftclDiceLoss(iter_=3, smooth=1e-12, sigmoid=True)
    entry("soft_cldice/monai", each(exact), source="monai SoftclDiceLoss(smooth=1e-12), per class")
    default = ml.SoftclDiceLoss(iter_=3, sigmoid=True)
    entry("soft_cldice/monai_default", default, source="monai SoftclDiceLoss, classes together", differs=True)
    ten = ml.SoftclDiceLoss(iter_=10, smooth=1e-12, sigmoid=True)
    entry(
        "soft_cldice/author",
        each(ten),
        source="monai SoftclDiceLoss(iter_=10): what jocpae/clDice computes for every iter_",
        options={"num_iterations": 10},
    )

    def contour(shift):
        """Return the loss with both differences at one pixel or, with `shift`, where the authors' slices put them."""

        def loss(x, t):
            p = x.sigmoid()[0, 0]
            rows, columns = p[1:, :] - p[:-1, :], p[:, 1:] - p[:, :-1]
            if shift:
                length = (rows[1:, :-2] ** 2 + columns[:-2, 1:] ** 2 + 1e-8).sqrt().mean()
            else:
                length = (rows[:, :-1] ** 2 + columns[:-1, :] ** 2 + 1e-8).sqrt().mean()
            y = t[0, 0]
            return length + (p * (y - 1) ** 2).mean() + ((1 - p) * y**2).mean()

        return each(loss)

    source = "Chen et al. 2019, eq. 3"
    entry("active_contour/paper", contour(False), source=source, kind="transcription")
    author = "xuuuuuuchen/Active-Contour-Loss, for any size, lambda 1"
    entry("active_contour/author", contour(True), source=author, kind="transcription", differs=True)
    # MONAI casts the inputs of SSIM and MS-SSIM to float32, which is less exact than the tests need: the cast is left
    # out.
    regression.convert_data_type = lambda data, **_: (data,)
    monai = ml.SSIMLoss(spatial_dims=2, data_range=1.0)
    entry("ssim/monai", each(lambda x, t: monai(x.sigmoid(), t)), source="monai SSIMLoss")
    entry(
        "ssim/kornia",
        each(lambda x, t: kornia_ssim(x.sigmoid(), t, window_size=11, padding="valid")),
        source="kornia ssim_loss(padding='valid')",
        differs=True,
    )
    scales = {"kernel_size": 5, "data_range": 1.0}
    wang = regression.MultiScaleSSIMMetric(spatial_dims=2, kernel_sigma=0.7, weights=(0.3, 0.7), **scales)
    entry(
        "ms_ssim/monai",
        each(lambda x, t: 1.0 - wang._compute_metric(x.sigmoid(), t)),
        source="1 - monai MultiScaleSSIMMetric, 2 scales, sigma 0.7",
        options={"window_size": 5, "sigma": 0.7, "scale_weights": [0.3, 0.7]},
    )
    entry(
        "ms_ssim/torchmetrics",
        each(lambda x, t: 1.0 - ms_ssim(x.sigmoid(), t, sigma=0.7, betas=(0.3, 0.7), normalize="relu", **scales)),
        source="1 - torchmetrics multiscale_structural_similarity_index_measure, 2 scales, sigma 0.7",
        differs=True,
    )


def main():
    """Compute all entries and write the file."""
    installed = {name: version(name).split("+")[0] for name in PINNED}
    if installed != PINNED:
        sys.exit(f"These versions are installed: {installed}; the golden values are those of {PINNED}.")
    smp = smp_losses()
    pixel_entries(smp)
    overlap_entries(smp)
    compound_entries(smp)
    distance_entries()
    structure_entries()
    layout = {"logits": LOGITS, "hard": HARD, "soft": SOFT}
    arrays = {name: x.transpose(0, 2, 3, 1) for name, x in layout.items()}
    stacked = np.stack(list(ARRAYS.values()))
    about = json.dumps({"versions": installed, "entries": ENTRIES})
    np.savez_compressed(GOLDEN, **arrays, grads=stacked[:, 1:], about=np.array(about))
    print(f"{len(ENTRIES)} entries, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
