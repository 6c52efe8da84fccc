"""Writer of the numbers that Keras computes to tests/golden/, so that the tests can compare without Keras.

    python -m venv keras-env
    keras-env/bin/pip install keras==3.15.1 torch==2.13.0 h5py==3.16.0 numpy==2.4.6
    keras-env/bin/python scripts/make_golden_keras.py                  # everything in tests/golden/keras_*
    keras-env/bin/python scripts/make_golden_keras.py full OUT.npz     # the whole 8-level network at 256x256
    keras-env/bin/python scripts/make_golden_keras.py predict WEIGHTS.h5 IMAGES.npy OUT.npy

This script does not import unet_jax. Networks are computed in float64 (Keras's floatx, PyTorch backend) from float32
weights. So the difference to a float32 implementation is the rounding of that implementation, not of Keras.
"""

import json
import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import h5py
import keras
import numpy as np
import torch
from keras import layers as kl
from keras import ops

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
LEARNING_RATE = 1e-4
NUM_STEPS = 5


def versions():
    """Return the versions of the packages as JSON."""
    return json.dumps({m.__name__: m.__version__.split("+")[0] for m in (keras, torch, h5py, np)})


# --- the Keras original ----------------------------------------------------------------------------------------------


def get_unet(input_shape, num_classes, widths, center):
    """Build the Keras original's network, with loops for its repetitions: the same layers in the same order."""

    def block(x, filters, times):
        for _ in range(times):
            x = kl.Conv2D(filters, (3, 3), padding="same")(x)
            x = kl.BatchNormalization()(x)
            x = kl.Activation("relu")(x)
        return x

    inputs = x = kl.Input(shape=input_shape)
    downs = []
    for filters in widths:
        x = block(x, filters, 2)
        downs.append(x)
        x = kl.MaxPooling2D((2, 2), strides=(2, 2))(x)
    x = block(x, center, 2)
    for filters, down in zip(reversed(widths), reversed(downs), strict=True):
        x = kl.UpSampling2D((2, 2))(x)
        x = kl.concatenate([down, x], axis=3)
        x = block(x, filters, 3)
    classify = kl.Conv2D(num_classes, (1, 1), activation="sigmoid")(x)
    return keras.Model(inputs=inputs, outputs=classify)


def dice_coef(y_true, y_pred, smooth=1.0):
    """Compute the soft Dice score over the whole batch, as the Keras original does."""
    y_true_f, y_pred_f = ops.reshape(y_true, (-1,)), ops.reshape(y_pred, (-1,))
    intersection = ops.sum(y_true_f * y_pred_f)
    return (2.0 * intersection + smooth) / (ops.sum(y_true_f) + ops.sum(y_pred_f) + smooth)


def make_bce_dice(bce, dice, smooth):
    """Return a loss as `make_loss('bce_dice')` of public programs returns it, with the given weights."""

    def loss(y_true, y_pred):
        cross_entropy = keras.losses.binary_crossentropy(y_true, y_pred)
        return bce * ops.mean(cross_entropy) + dice * (1.0 - dice_coef(y_true, y_pred, smooth))

    return loss


# Weights of cross entropy and Dice, and smooth, of the three public programs that have this loss.
PUBLIC = {"petrosgk": (1.0, 1.0, 1.0), "killthekitten": (0.2, 0.8, 1.0), "selimsef": (0.5, 0.5, 1e-3)}


# --- networks --------------------------------------------------------------------------------------------------------


def random_weights(model, rng):
    """Set random weights like those of a trained network: none keeps its initial 0 or 1, and all are float32 numbers.

    The offsets are positive, so that most inputs of a ReLU are positive. With offsets around 0, each of twenty
    normalisations would make rounding errors a fifth larger, and float32 logits (those of Keras as well) would be 1e-4
    away from the true ones.
    """
    values = []
    for v in model.weights:
        shape = tuple(v.shape)
        match v.name:
            case "kernel":
                value = rng.normal(0.0, np.sqrt(2.0 / (np.prod(shape[:3]))), shape)
            case "gamma":
                value = rng.normal(1.0, 0.2, shape)
            case "beta":
                value = rng.normal(1.0, 0.2, shape)
            case "moving_variance":
                value = rng.uniform(0.5, 2.0, shape)
            case _:
                value = rng.normal(0.0, 0.1, shape)
        values.append(value.astype(np.float32))
    values[-2] *= np.float32(0.3)  # logits of a few units
    model.set_weights(values)


def weights_away_from_kinks(model, rng):
    """Set random weights with which hardly any input of a ReLU is near 0.

    With offsets of 4 and not 1, one input in ten thousand is negative and not one in six. So among the five million
    inputs of the whole network hardly any is so close to 0 that rounding decides its sign. Logits keep their size.
    """
    random_weights(model, rng)
    values = model.get_weights()
    for i, v in enumerate(model.weights):
        if v.name == "beta":
            values[i] = values[i] + 3.0
        elif v.name == "gamma":
            values[i] = np.clip(values[i], 0.8, 1.2)
    values[-2] = values[-2] / 6.0
    model.set_weights([value.astype(np.float32) for value in values])


def logit(probs):
    """Return the logits of probabilities, in float64."""
    probs = ops.convert_to_numpy(probs).astype(np.float64)
    return np.log(probs) - np.log1p(-probs)


def smooth_noise(rng, shape, cell):
    """Make blurred random blocks of `cell` pixels, `[b h w c]`: soft borders, as in masks that the original resizes."""
    b, h, w, c = shape
    coarse = rng.random((b, h // cell, w // cell, c))
    fine = coarse.repeat(cell, 1).repeat(cell, 2)
    for axis in (1, 2):
        fine = (np.roll(fine, 1, axis) + fine + np.roll(fine, -1, axis)) / 3.0
    return fine


def batches_for(rng, num, batch, size, num_classes):
    """Make `num` batches of random images and soft masks, uint8: `[num batch h w 3]` and `[num batch h w k]`."""
    images = smooth_noise(rng, (num * batch, *size, 3), 4) * 0.7 + rng.random((num * batch, *size, 3)) * 0.3
    labels = np.clip(smooth_noise(rng, (num * batch, *size, num_classes), 8) * 6.0 - 2.5, 0.0, 1.0)
    image, label = (np.round(a * 255.0).astype(np.uint8) for a in (images, labels))
    return image.reshape(num, batch, *image.shape[1:]), label.reshape(num, batch, *label.shape[1:])


def gradients(model, loss_fn, x, y):
    """Return the loss in training mode, and its gradient for every trainable array."""
    model.zero_grad()
    loss = loss_fn(ops.convert_to_tensor(y), model(x, training=True))
    loss.backward()
    return loss.item(), [v.value.grad.detach().numpy().copy() for v in model.trainable_variables]


def old_keras_training(model, start, loss_fn, xs, ys, *, eps, corrected):
    """Train with the RMSprop of Keras 2, in float64 NumPy on Keras's own gradients; return the weights after each step.

    Its epsilon is outside of the square root. Keras 2.0.0 to 2.1.2 have eps 1e-8, later versions 2.x have eps 1e-7.
    From 2.1.4 on (`corrected`), the running variance follows the batch's variance times n / (n - 1 - 0.001).
    """
    model.set_weights(start)
    accumulators = [np.zeros(v.shape) for v in model.trainable_variables]
    after = []
    for x, y in zip(xs, ys, strict=True):
        before = [ops.convert_to_numpy(v).copy() for v in model.non_trainable_variables]
        shapes = {}
        for layer in model.layers:
            if isinstance(layer, kl.BatchNormalization):
                b, h, w, _ = (len(x), *layer.output.shape[1:])
                shapes[layer.moving_variance.path] = b * h * w
        _, grads = gradients(model, loss_fn, x, y)
        for v, a, g in zip(model.trainable_variables, accumulators, grads, strict=True):
            a[...] = 0.9 * a + 0.1 * g * g
            v.assign(ops.convert_to_numpy(v) - LEARNING_RATE * g / (np.sqrt(a) + eps))
        for v, old in zip(model.non_trainable_variables, before, strict=True):
            if corrected and v.path in shapes:
                n = shapes[v.path]
                variance = (ops.convert_to_numpy(v) - 0.99 * old) / (1.0 - 0.99)
                v.assign(0.99 * old + (1.0 - 0.99) * variance * n / (n - (1.0 + 1e-3)))
        after.append(model.get_weights())
    return after


def record_network(widths, center, num_classes, size, batch, seed, *, train, set_weights=random_weights):
    """Return everything that Keras computes with one network, as named arrays; `train` includes training steps."""
    keras.config.set_floatx("float64")
    rng = np.random.default_rng(seed)
    model = get_unet((*size, 3), num_classes, widths, center)
    set_weights(model, rng)
    start = model.get_weights()
    image, label = batches_for(rng, NUM_STEPS, batch, size, num_classes)
    xs, ys = image / 255.0, label / 255.0
    out = {"versions": versions(), "widths": widths, "center": center, "image": image, "label": label}
    out |= {f"start/{i}": v for i, v in enumerate(start)}
    probs = model(xs[0], training=False)
    out["logits_inference"] = logit(probs)
    for name, (bce, dice, smooth) in PUBLIC.items():
        out[f"loss/{name}"] = float(make_bce_dice(bce, dice, smooth)(ops.convert_to_tensor(ys[0]), probs.detach()))
    loss_fn = make_bce_dice(*PUBLIC["petrosgk"])
    with torch.no_grad():
        out["logits_train"] = logit(model(xs[0], training=True))
    model.set_weights(start)
    out["loss_train"], grads = gradients(model, loss_fn, xs[0], ys[0])
    out |= {f"grad/{i}": g for i, g in enumerate(grads)}
    out |= {f"moving/{i}": ops.convert_to_numpy(v) for i, v in enumerate(model.non_trainable_variables)}
    if not train:
        return out
    for name in ("keras3", "keras2.0", "keras2.1"):
        if name == "keras3":
            model.set_weights(start)
            optimizer = keras.optimizers.RMSprop(learning_rate=LEARNING_RATE)
            model.compile(optimizer=optimizer, loss=loss_fn, metrics=[dice_coef, "accuracy"])
            tested = model.test_on_batch(xs[0], ys[0], return_dict=True)
            out |= {f"test/{key}": float(value) for key, value in tested.items()}
            after = []
            for x, y in zip(xs, ys, strict=True):
                model.train_on_batch(x, y)
                after.append(model.get_weights())
        else:
            eps = 1e-8 if name == "keras2.0" else 1e-7
            after = old_keras_training(model, start, loss_fn, xs, ys, eps=eps, corrected=name == "keras2.1")
        out |= {f"{name}/after1/{i}": v for i, v in enumerate(after[0])}
        out |= {f"{name}/after5/{i}": v for i, v in enumerate(after[-1])}
        model.set_weights(after[-1])
        with torch.no_grad():
            out[f"{name}/logits_train"] = logit(model(xs[0], training=True))
            model.set_weights(after[-1])
            out[f"{name}/logits_inference"] = logit(model(xs[0], training=False))
    return out


def save(path, values):
    """Write a .npz file. Scalars stay float64; arrays are stored as float32, which is enough for the tests."""
    narrow = {
        k: v.astype(np.float32) if getattr(v, "dtype", None) == np.float64 and v.ndim else v for k, v in values.items()
    }
    (np.savez_compressed if str(path).startswith(str(GOLDEN)) else np.savez)(path, **narrow)
    print(f"{path}: {Path(path).stat().st_size / 1e3:.0f} kB")


# --- weight files ----------------------------------------------------------------------------------------------------


def write_weight_files():
    """Let Keras write the same network in every file format.

    It is the second model of the process, so that the numbers in the names of its layers do not start from the first.
    """
    from keras.src.legacy.saving import legacy_h5_format

    get_unet((8, 8, 3), 2, (2, 3), 4)
    model = get_unet((8, 8, 3), 2, (2, 3), 4)
    random_weights(model, np.random.default_rng(7))
    image = np.random.default_rng(8).integers(0, 256, (2, 8, 8, 3), np.uint8)
    model.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
    start = model.get_weights()
    model.fit(image / np.float32(255), np.zeros((2, 8, 8, 2), np.float32), verbose=0)  # creates optimizer weights
    model.set_weights(start)
    model.save_weights(GOLDEN / "keras3.weights.h5")
    model.save(GOLDEN / "keras3.keras")
    model.save(GOLDEN / "keras_legacy_model.h5")
    with h5py.File(GOLDEN / "keras_legacy_weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    probs, other = (ops.convert_to_numpy(model(x / np.float32(255), training=False)) for x in (image, image[..., ::-1]))
    assert np.abs(probs - other).max() > 0.05, (
        "the prediction hardly depends on the order of colours: change the weights"
    )
    values = {"versions": versions(), "image": image, "probs": probs} | {f"weight/{i}": v for i, v in enumerate(start)}
    save(GOLDEN / "keras_files.npz", values)


def predict(weights, images, out):
    """Write the probabilities of a network of widths (2, 3) and centre 4, whose weights Keras loads from a file."""
    model = get_unet((8, 8, 3), 2, (2, 3), 4)
    model.load_weights(weights)
    np.save(out, ops.convert_to_numpy(model(np.load(images) / np.float32(255), training=False)))


# --- callbacks -------------------------------------------------------------------------------------------------------


def curves(rng, num_epochs=40):
    """Make twenty validation curves: falling, noisy, flat, with changes of exactly min_delta, NaN and infinity.

    One curve changes by 2**-13 at 1000. This is more than 1e-4, but not in the float32 arithmetic around 1000.
    """
    epochs = np.arange(num_epochs)
    all_curves = []
    for i in range(8):
        noise = rng.normal(0.0, 0.02 * (i + 1), num_epochs)
        all_curves.append(np.exp(-epochs / (4.0 + 2 * i)) + 0.1 + noise)
    all_curves += [np.full(num_epochs, 0.3), 0.5 - 1e-4 * epochs, 0.5 - 0.99e-4 * epochs, 0.5 - 1.01e-4 * epochs]
    all_curves += [0.2 + 0.01 * epochs, 1000.0 - 2.0**-13 * (epochs > 4), np.round(rng.random(num_epochs), 1)]
    all_curves += [np.repeat(rng.random(8), 5), 0.3 - 1e-4 * (epochs // 3) + 1e-9 * rng.normal(size=num_epochs)]
    for where in (0, 5):
        with_nan = 1.0 / (epochs + 1.0)
        with_nan[where] = np.nan
        all_curves.append(with_nan)
    all_curves.append(np.where(epochs < 3, np.inf, 0.4 + 0.001 * rng.normal(size=num_epochs)))
    # In training, validation losses reach the callbacks as float32 numbers.
    return np.stack(all_curves).astype(np.float32).astype(np.float64)


def record_callbacks():
    """Write when Keras's early stopping and plateau act on each curve, with several settings."""
    values = curves(np.random.default_rng(3))
    out = {"versions": versions(), "curves": values}
    settings = [(8, 1e-4, 4, 0.1, 1e-4), (3, 0.0, 2, 0.5, 0.0), (5, 1e-2, 1, 0.2, 1e-3)]
    out["settings"] = np.array(settings)
    for s, (stop_patience, stop_delta, patience, factor, delta) in enumerate(settings):
        stops, rates = [], []
        for curve in values:
            inputs = kl.Input((1,))
            model = keras.Model(inputs, kl.Dense(1)(inputs))
            model.compile(optimizer=keras.optimizers.RMSprop(LEARNING_RATE), loss="mse")
            stop = keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=stop_patience, min_delta=stop_delta, mode="min"
            )
            reduce = keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss", factor=factor, patience=patience, min_delta=delta, mode="min"
            )
            model.stop_training = False
            for callback in (stop, reduce):
                callback.set_model(model)
                callback.on_train_begin()
            stopped_at, rate = -1, []
            for epoch, value in enumerate(curve):
                stop.on_epoch_end(epoch, {"val_loss": float(value)})
                reduce.on_epoch_end(epoch, {"val_loss": float(value)})
                rate.append(float(ops.convert_to_numpy(model.optimizer.learning_rate)))
                if model.stop_training and stopped_at < 0:
                    stopped_at = epoch
            stops.append(stopped_at)
            rates.append(rate)
        out[f"stop/{s}"], out[f"learning_rate/{s}"] = np.array(stops), np.array(rates)
    np.savez_compressed(GOLDEN / "keras_callbacks.npz", **out)


# --- losses that weight borders ---------------------------------------------------------------------------------------


def record_border_losses():
    """Write losses that weight borders: the steps of the original programs in float64, with PyTorch's pooling.

    Arrays are `[b k h w]`, the layout of PyTorch.
    """
    rng = np.random.default_rng(5)
    label = batches_for(rng, 1, 2, (64, 48), 2)[1][0]
    label[1, ..., 1] = 0
    logits = rng.normal(0.0, 3.0, label.shape).astype(np.float32)
    x = torch.tensor(logits.transpose(0, 3, 1, 2).astype(np.float64))
    t = torch.tensor((label / 255.0).transpose(0, 3, 1, 2))
    p = torch.sigmoid(x)
    functional = torch.nn.functional

    def inner_mean(values, size):
        pad = ((size - 1) // 2, size // 2) * 2
        total, count = (
            functional.avg_pool2d(functional.pad(v, pad), size, stride=1) for v in (values, torch.ones_like(values))
        )
        return total / count

    def dice(p, t, w=1.0):
        return (2.0 * (w * p * t).sum() + 1.0) / ((w * p).sum() + (w * t).sum() + 1.0)

    def scaled(w):
        return w * (w.numel() / w.sum())

    out = {"versions": versions(), "logits": logits, "label": label}
    a = inner_mean(t, 11)
    w = scaled(1.0 + 2.0 * (a.gt(0.005) * a.lt(0.995)))
    bce = ((1 - t) * x + (1 + (w - 1) * t) * (torch.log(1 + torch.exp(-x.abs())) + (-x).clamp(min=0))).sum() / w.sum()
    out["petrosgk"] = (bce + 1.0 - dice(p, t, w * w)).item()
    a = functional.avg_pool2d(t, 11, padding=5, stride=1)
    w = scaled(1.0 + 2.0 * (a.ge(0.01) * a.le(0.99)))
    cross_entropy = functional.binary_cross_entropy_with_logits(x, t, reduction="none")
    overlap, total = (((w * w) * v).flatten(1).sum(1) for v in (p * t, p + t))
    out["asanakoy"] = ((w * cross_entropy).sum() / w.sum() + 1.0 - (2.0 * (overlap + 1) / (total + 1)).mean()).item()
    w = 5.0 * torch.exp(-5.0 * (inner_mean(t, 50) - 0.5).abs())
    out["lyakaap"] = ((w * cross_entropy).sum() / w.sum() + 1.0 - dice(p, t)).item()
    border = functional.max_pool2d(t, 21, 1, 10) * functional.max_pool2d(1 - t, 21, 1, 10) > 0.5
    out["killthekitten_dice"] = (0.05 * (1 - dice(p[border], t[border])) + 0.95 * (1 - dice(p, t))).item()
    out["killthekitten_bce"] = (0.05 * cross_entropy[border].mean() + 0.95 * (1 - dice(p, t))).item()
    save(GOLDEN / "keras_border_losses.npz", out)


def main(args):
    """Run the command that the arguments name."""
    if args[:1] == ["predict"]:
        predict(*args[1:])
    elif args[:1] == ["full"]:
        widths, set_weights = (8, 16, 32, 64, 128, 256, 512), weights_away_from_kinks
        values = record_network(widths, 1024, 2, (256, 256), 1, 11, train=False, set_weights=set_weights)
        save(args[1], values)
    elif not args:
        write_weight_files()  # first, while Keras's floatx is float32
        record_callbacks()
        record_border_losses()
        save(GOLDEN / "keras_unet3.npz", record_network((4, 5, 6), 8, 2, (32, 32), 2, 1, train=True))
        save(GOLDEN / "keras_unet4.npz", record_network((3, 4, 5, 6), 7, 1, (32, 48), 3, 2, train=True))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
