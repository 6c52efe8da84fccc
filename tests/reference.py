"""The losses once more in float64, one pixel after the other, written from the formulas and not from the code.

`evaluate(name, logits, labels, weight, options)` has the output that `unet_jax.losses.NAME_loss` documents. Functions
below see one image and class: `[h w]` logits x, labels t and weights w.
"""

import math

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x)) if x > -700.0 else 0.0


def pixels(x):
    return list(np.ndindex(x.shape))


def bce(x, t):
    return max(x, 0.0) - x * t + math.log1p(math.exp(-abs(x)))


def per_pixel(function):
    """Makes `[h w]` of a function of one pixel."""

    def loss(x, t, w, **options):
        out = np.zeros(x.shape)
        for i in pixels(x):
            out[i] = w[i] * function(x[i], t[i], **options)
        return out

    return loss


def weighted_bce(x, t, pos_weight=1.0, label_smoothing=0.0):
    t = (1.0 - label_smoothing) * t + label_smoothing / 2.0
    return pos_weight * t * bce(x, 1.0) + (1.0 - t) * bce(x, 0.0)


def p_t(x, t):
    return sigmoid(x) * t + (1.0 - sigmoid(x)) * (1.0 - t)


def focal(x, t, gamma=2.0, pos_weight=1.0, neg_weight=1.0):
    return (pos_weight * t + neg_weight * (1.0 - t)) * (1.0 - p_t(x, t)) ** gamma * bce(x, t)


def poly1_focal(x, t, gamma=2.0, epsilon=1.0, pos_weight=1.0, neg_weight=1.0):
    a = pos_weight * t + neg_weight * (1.0 - t)
    return focal(x, t, gamma, pos_weight, neg_weight) + a * epsilon * (1.0 - p_t(x, t)) ** (gamma + 1.0)


def asymmetric(x, t, gamma_pos=1.0, gamma_neg=4.0, clip=0.05):
    p = sigmoid(x)
    n = min(1.0 - p + clip, 1.0)
    q = p * t + n * (1.0 - t)
    focus = (1.0 - q) ** (gamma_pos * t + gamma_neg * (1.0 - t))
    return -focus * (t * math.log(p) + (1.0 - t) * math.log(n))


def balanced_bce(x, t, w):
    share = sum(w[i] * (1.0 - t[i]) for i in pixels(x)) / sum(w[i] for i in pixels(x))
    out = np.zeros(x.shape)
    for i in pixels(x):
        out[i] = w[i] * (share * t[i] * bce(x[i], 1.0) + (1.0 - share) * (1.0 - t[i]) * bce(x[i], 0.0))
    return out


def topk_bce(x, t, w, fraction=0.1):
    known = [(bce(x[i], t[i]), w[i]) for i in pixels(x) if w[i] > 0.0]
    count = max(1, math.floor(fraction * len(known) + 1e-6))
    limit = sorted((loss for loss, _ in known), reverse=True)[count - 1]
    above, at = ([(loss, v) for loss, v in known if test(loss)] for test in (lambda a: a > limit, lambda a: a == limit))
    share = (count - len(above)) / len(at)
    chosen = above + [(loss, v * share) for loss, v in at]
    return sum(v * loss for loss, v in chosen) / sum(v for _, v in chosen)


# --- overlap ----------------------------------------------------------------------------------------------------------


def sums(x, t, w):
    p = {i: sigmoid(x[i]) for i in pixels(x)}
    return tuple(
        sum(w[i] * f(p[i], t[i]) for i in pixels(x)) for f in (lambda p, t: p * t, lambda p, t: p, lambda p, t: t)
    )


def l1_sums(x, t, w):
    _, positive, true = sums(x, t, w)
    apart = sum(w[i] * abs(sigmoid(x[i]) - t[i]) for i in pixels(x))
    return (positive + true - apart) / 2.0, positive, true


def dice_score(x, t, w, smooth=1.0, which=sums):
    intersection, positive, true = which(x, t, w)
    return (2.0 * intersection + smooth) / (positive + true + smooth)


def squared_dice(x, t, w, smooth=1.0):
    squares = sum(w[i] * (sigmoid(x[i]) ** 2 + t[i] ** 2) for i in pixels(x))
    return 1.0 - (2.0 * sums(x, t, w)[0] + smooth) / (squares + smooth)


def jaccard(x, t, w, smooth=1.0, which=sums):
    intersection, positive, true = which(x, t, w)
    return 1.0 - (intersection + smooth) / (positive + true - intersection + smooth)


def tversky(x, t, w, fp_weight=0.3, fn_weight=0.7, smooth=1.0, which=sums):
    intersection, positive, true = which(x, t, w)
    wrong = fp_weight * (positive - intersection) + fn_weight * (true - intersection)
    return 1.0 - (intersection + smooth) / (intersection + wrong + smooth)


def cells(x, t, w):
    """TP, TN, FP, FN."""
    out = [0.0] * 4
    for i in pixels(x):
        p = sigmoid(x[i])
        for k, part in enumerate((p * t[i], (1 - p) * (1 - t[i]), p * (1 - t[i]), (1 - p) * t[i])):
            out[k] += w[i] * part
    return out


def mcc(x, t, w, smooth=1.0):
    tp, tn, fp, fn = (c + smooth for c in cells(x, t, w))
    return 1.0 - (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


def sensitivity_specificity(x, t, w, sensitivity_weight=0.05, smooth=1.0):
    missed = sum(w[i] * (t[i] - sigmoid(x[i])) ** 2 * t[i] for i in pixels(x))
    claimed = sum(w[i] * (t[i] - sigmoid(x[i])) ** 2 * (1.0 - t[i]) for i in pixels(x))
    true, false = sum(w[i] * t[i] for i in pixels(x)), sum(w[i] * (1.0 - t[i]) for i in pixels(x))
    r = sensitivity_weight
    return r * missed / (true + smooth) + (1.0 - r) * claimed / (false + smooth)


def lovasz_hinge(x, t, w):
    """By the definition: the set function's gains while pixels are added in the order of their margins."""
    order = sorted(pixels(x), key=lambda i: -(1.0 - x[i] * (2.0 * (t[i] >= 0.5) - 1.0)))
    true = [i for i in pixels(x) if t[i] >= 0.5]

    def jaccard_of(wrong):
        union = sum(w[i] for i in set(true) | set(wrong))
        return sum(w[i] for i in wrong) / union if union else 0.0

    total = 0.0
    for n, i in enumerate(order):
        gain = jaccard_of(order[: n + 1]) - jaccard_of(order[:n])
        total += max(1.0 - x[i] * (2.0 * (t[i] >= 0.5) - 1.0), 0.0) * gain
    return total


def combo(x, t, w, ce_weight=0.5, pos_weight=0.5, smooth=1.0):
    entropy = [pos_weight * t[i] * bce(x[i], 1.0) + (1 - pos_weight) * (1 - t[i]) * bce(x[i], 0.0) for i in pixels(x)]
    mean = sum(w[i] * e for i, e in zip(pixels(x), entropy, strict=True)) / w.sum()
    return ce_weight * mean + (1.0 - ce_weight) * (1.0 - dice_score(x, t, w, smooth))


def unified(x, t, w, delta=0.6, gamma=0.5, focal_weight=0.5, smooth=1.0, *, asymmetric):
    tp, tn, fp, fn = cells(x, t, w)
    fore = 1.0 - (tp + smooth) / (tp + delta * fn + (1.0 - delta) * fp + smooth)
    back = 1.0 - (tn + smooth) / (tn + delta * fp + (1.0 - delta) * fn + smooth)
    ratios = (fore ** (1.0 - gamma) + (back if asymmetric else back ** (1.0 - gamma))) / 2.0
    mean = 0.0
    for i in pixels(x):
        p = sigmoid(x[i])
        easy = 1.0 if asymmetric else (1.0 - p) ** gamma
        mean += w[i] * delta * t[i] * easy * bce(x[i], 1.0) / w.sum()
        mean += w[i] * (1.0 - delta) * (1.0 - t[i]) * p**gamma * bce(x[i], 0.0) / w.sum()
    return focal_weight * mean + (1.0 - focal_weight) * ratios


# --- distance ---------------------------------------------------------------------------------------------------------


def distance_to(mask):
    """Of each pixel to the nearest of the mask, over all pairs."""
    out = np.full(mask.shape, np.inf)
    for i in np.ndindex(mask.shape):
        for j in zip(*np.nonzero(mask), strict=True):
            out[i] = min(out[i], math.dist(i, j))
    return out


def signed_distance(t, w):
    inside, outside = (t >= 0.5) & (w > 0.0), (t < 0.5) & (w > 0.0)
    if not inside.any() or not outside.any():
        return np.zeros(t.shape)
    return np.where(t >= 0.5, np.minimum(1.0 - distance_to(outside), 0.0), distance_to(inside))


def boundary(x, t, w):
    phi = signed_distance(t, w)
    return np.array([[w[i, j] * sigmoid(x[i, j]) * phi[i, j] for j in range(x.shape[1])] for i in range(x.shape[0])])


def border_bce(x, t, w, border_weight=10.0, border_width=5.0):
    inside, outside = (t >= 0.5) & (w > 0.0), (t < 0.5) & (w > 0.0)
    out = np.zeros(x.shape)
    for i in pixels(x):
        factor = 1.0
        if inside.any() and outside.any():
            other = outside if t[i] >= 0.5 else inside
            away = min(math.dist(i, j) for j in zip(*np.nonzero(other), strict=True)) - 1.0
            factor += border_weight * math.exp(-(away**2) / (2.0 * border_width**2))
        out[i] = w[i] * factor * bce(x[i], t[i])
    return out


def hausdorff_dt(x, t, w, distance_power=2.0):
    known, field = w > 0.0, np.zeros(x.shape)
    for mask in (x > 0.0, t >= 0.5):
        if (mask & known).any() and (~mask & known).any():
            field += (distance_to(mask & known) + distance_to(~mask & known)) ** distance_power
    return np.array([w[i] * (sigmoid(x[i]) - t[i]) ** 2 * field[i] for i in pixels(x)]).reshape(x.shape)


def neighbours(x, i, offsets):
    return [x[i[0] + a, i[1] + b] for a, b in offsets if 0 <= i[0] + a < x.shape[0] and 0 <= i[1] + b < x.shape[1]]


CROSS = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
SQUARE = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]


def hausdorff_erosion(x, t, w, num_erosions=10, distance_power=2.0):
    bound, total = np.zeros(x.shape), np.zeros(x.shape)
    for i in pixels(x):
        bound[i] = (sigmoid(x[i]) - t[i]) ** 2 if w[i] > 0.0 else 0.0
    for n in range(1, num_erosions + 1):
        eroded = np.zeros(x.shape)
        for i in pixels(x):
            eroded[i] = max(sum(neighbours(bound, i, CROSS)) / 5.0 - 0.5, 0.0)
        if eroded.max() > eroded.min():
            eroded = (eroded - eroded.min()) / (eroded.max() - eroded.min())
        bound = eroded
        total += bound * n**distance_power
    return w * total


# --- structure --------------------------------------------------------------------------------------------------------


def skeleton(x, num_iterations):
    lines = np.zeros(x.shape)
    for _ in range(num_iterations + 1):
        eroded, opened = np.zeros(x.shape), np.zeros(x.shape)
        for i in pixels(x):
            eroded[i] = min(neighbours(x, i, CROSS))
        for i in pixels(x):
            opened[i] = max(neighbours(eroded, i, SQUARE))
        ridge = np.maximum(x - opened, 0.0)
        lines = lines + np.maximum(ridge - lines * ridge, 0.0)
        x = eroded
    return lines


def soft_cldice(x, t, w, num_iterations=3, smooth=1.0):
    p = np.vectorize(sigmoid)(x) * (w > 0.0)
    t = t * (w > 0.0)
    of_p, of_t = skeleton(p, num_iterations), skeleton(t, num_iterations)
    precision = ((w * of_p * t).sum() + smooth) / ((w * of_p).sum() + smooth)
    sensitivity = ((w * of_t * p).sum() + smooth) / ((w * of_t).sum() + smooth)
    return 1.0 - 2.0 * precision * sensitivity / (precision + sensitivity)


def active_contour(x, t, w, region_weight=1.0, eps=1e-8):
    p, length, pairs, region = np.vectorize(sigmoid)(x), 0.0, 0.0, 0.0
    for i, j in pixels(x):
        region += w[i, j] * (p[i, j] * (1.0 - t[i, j]) ** 2 + (1.0 - p[i, j]) * t[i, j] ** 2)
        if i + 1 < x.shape[0] and j + 1 < x.shape[1]:
            known = min(w[i, j], w[i + 1, j], w[i, j + 1])
            length += known * math.sqrt((p[i + 1, j] - p[i, j]) ** 2 + (p[i, j + 1] - p[i, j]) ** 2 + eps)
            pairs += known
    return length / pairs + region_weight * region / w.sum()


def similarity(p, t, w, window_size, sigma, k1, k2):
    middle = (window_size - 1) / 2.0
    bell = [math.exp(-((a - middle) ** 2) / (2.0 * sigma**2)) for a in range(window_size)]
    kernel = np.outer(bell, bell) / np.outer(bell, bell).sum()
    known, whole, structure = [], [], []
    for i in range(p.shape[0] - window_size + 1):
        for j in range(p.shape[1] - window_size + 1):
            here = np.s_[i : i + window_size, j : j + window_size]
            g = kernel * w[here]
            known.append(g.sum())
            if not known[-1]:
                whole.append(0.0)
                structure.append(0.0)
                continue
            mean_p, mean_t = np.average(p[here], weights=g), np.average(t[here], weights=g)
            var_p = np.average((p[here] - mean_p) ** 2, weights=g)
            var_t = np.average((t[here] - mean_t) ** 2, weights=g)
            both = np.average((p[here] - mean_p) * (t[here] - mean_t), weights=g)
            structure.append((2.0 * both + k2**2) / (var_p + var_t + k2**2))
            whole.append(structure[-1] * (2.0 * mean_p * mean_t + k1**2) / (mean_p**2 + mean_t**2 + k1**2))
    return np.average(whole, weights=known), np.average(structure, weights=known)


def ssim(x, t, w, window_size=11, sigma=1.5, k1=0.01, k2=0.03):
    return 1.0 - similarity(np.vectorize(sigmoid)(x), t, w, window_size, sigma, k1, k2)[0]


def ms_ssim(x, t, w, window_size=11, sigma=1.5, k1=0.01, k2=0.03, scale_weights=()):
    p, product = np.vectorize(sigmoid)(x), 1.0
    for n, exponent in enumerate(scale_weights):
        if n:
            h, wd = p.shape[0] // 2, p.shape[1] // 2
            smaller = [np.zeros((h, wd)) for _ in range(3)]
            for i, j in np.ndindex(h, wd):
                block = np.s_[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                smaller[2][i, j] = w[block].mean()
                if w[block].any():
                    smaller[0][i, j] = np.average(p[block], weights=w[block])
                    smaller[1][i, j] = np.average(t[block], weights=w[block])
            p, t, w = smaller
        whole, structure = similarity(p, t, w, window_size, sigma, k1, k2)
        product *= max(whole if n == len(scale_weights) - 1 else structure, 0.0) ** exponent
    return 1.0 - product


LOSSES = {
    "bce": per_pixel(bce),
    "weighted_bce": per_pixel(weighted_bce),
    "balanced_bce": balanced_bce,
    "border_bce": border_bce,
    "soft_bootstrapped_bce": per_pixel(
        lambda x, t, label_weight=0.95: bce(x, label_weight * t + (1.0 - label_weight) * sigmoid(x))
    ),
    "hard_bootstrapped_bce": per_pixel(
        lambda x, t, label_weight=0.8: bce(x, label_weight * t + (1.0 - label_weight) * (x > 0.0))
    ),
    "topk_bce": topk_bce,
    "focal": per_pixel(focal),
    "poly1_bce": per_pixel(lambda x, t, epsilon=1.0: bce(x, t) + epsilon * (1.0 - p_t(x, t))),
    "poly1_focal": per_pixel(poly1_focal),
    "asymmetric": per_pixel(asymmetric),
    "soft_dice": lambda x, t, w, smooth=1.0: 1.0 - dice_score(x, t, w, smooth),
    "squared_dice": squared_dice,
    "log_dice": lambda x, t, w, smooth=1.0: -math.log(dice_score(x, t, w, smooth)),
    "log_cosh_dice": lambda x, t, w, smooth=1.0: math.log(math.cosh(1.0 - dice_score(x, t, w, smooth))),
    "jaccard": jaccard,
    "tversky": tversky,
    "focal_tversky": lambda x, t, w, gamma=0.75, **options: tversky(x, t, w, **options) ** gamma,
    "l1_dice": lambda x, t, w, smooth=1.0: 1.0 - dice_score(x, t, w, smooth, l1_sums),
    "l1_jaccard": lambda x, t, w, smooth=1.0: jaccard(x, t, w, smooth, l1_sums),
    "l1_tversky": lambda x, t, w, **options: tversky(x, t, w, **options, which=l1_sums),
    "lovasz_hinge": lovasz_hinge,
    "mcc": mcc,
    "sensitivity_specificity": sensitivity_specificity,
    "combo": combo,
    "symmetric_unified_focal": lambda x, t, w, **options: unified(x, t, w, **options, asymmetric=False),
    "asymmetric_unified_focal": lambda x, t, w, **options: unified(x, t, w, **options, asymmetric=True),
    "boundary": boundary,
    "hausdorff_dt": hausdorff_dt,
    "hausdorff_erosion": hausdorff_erosion,
    "soft_cldice": soft_cldice,
    "active_contour": active_contour,
    "ssim": ssim,
    "ms_ssim": ms_ssim,
}


def generalized_dice(logits, labels, weight, smooth=1.0, volume_power=2.0):
    out = []
    for x, t, w in zip(logits, labels, weight, strict=True):
        found = [sums(x[..., k], t[..., k], w[..., k]) for k in range(x.shape[-1])]
        present = [true for _, _, true in found if true > 0.0]
        volumes = [(min(present) / true) ** volume_power if true > 0.0 else 1.0 for _, _, true in found]
        above = sum(v * intersection for v, (intersection, _, _) in zip(volumes, found, strict=True))
        below = sum(v * (positive + true) for v, (_, positive, true) in zip(volumes, found, strict=True))
        out.append(1.0 - (2.0 * above + smooth) / (below + smooth))
    return np.array(out)


def evaluate(name, logits, labels, weight, options):
    """`[b h w k]` arrays to what the loss of that name returns."""
    logits, labels, weight = (np.asarray(x, np.float64) for x in (logits, labels, weight))
    weight = np.broadcast_to(weight, logits.shape)
    b, _, _, k = logits.shape
    if name == "generalized_dice":
        return generalized_dice(logits, labels, weight, **options)
    if name in ("class_soft_dice", "batch_soft_dice"):
        found = np.array(
            [[sums(*(a[i, ..., c] for a in (logits, labels, weight))) for c in range(k)] for i in range(b)]
        )
        added = found.sum(0) if name == "class_soft_dice" else found.sum((0, 1))
        smooth = options.get("smooth", 1.0)
        return 1.0 - (2.0 * added[..., 0] + smooth) / (added[..., 1] + added[..., 2] + smooth)
    rows = [
        [LOSSES[name](*(a[i, ..., c] for a in (logits, labels, weight)), **options) for c in range(k)] for i in range(b)
    ]
    out = np.array(rows)
    return np.moveaxis(out, 1, -1) if out.ndim == 4 else out
