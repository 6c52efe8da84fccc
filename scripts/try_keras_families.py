"""Import small networks with the structure of public Keras U-Nets, and print what becomes of each as a Markdown table.

The structures are written from the published networks' layers, with few channels. Each is saved by Keras with random
weights and statistics, imported, and compared with Keras's own probabilities for one image.

    python -m venv KERAS && KERAS/bin/pip install keras torch==2.13.0
    KERAS_BACKEND=torch KERAS/bin/python scripts/try_keras_families.py save FOLDER
    python scripts/try_keras_families.py import FOLDER  # with unet_jax; prints the table
"""

import sys
from pathlib import Path

import numpy as np

SIZE = 32


def save(folder: Path) -> None:
    """Write each network as a whole model and as bare weights, with an image and its probabilities."""
    import keras
    from keras import layers as L

    def conv(
        x,
        width,
        size=3,
        activation="relu",
        norm=False,
        order="conv-norm-relu",
        bias=True,
        padding="same",
        init="he_normal",
    ):
        if order == "norm-relu-conv":
            x = L.Activation("relu")(L.BatchNormalization()(x))
            return L.Conv2D(width, size, padding="same", kernel_initializer=init)(x)
        if not norm:
            return L.Conv2D(width, size, padding=padding, activation=activation, kernel_initializer=init)(x)
        x = L.Conv2D(width, size, padding="same", use_bias=bias, kernel_initializer=init)(x)
        if order == "conv-relu-norm":
            return L.BatchNormalization()(L.Activation(activation)(x))
        return L.Activation(activation)(L.BatchNormalization()(x))

    def unet(
        channels=3,
        widths=(4, 8),
        center=16,
        downs=2,
        ups=2,
        up="nearest",
        up_first=False,
        out=1,
        end="sigmoid",
        sigmoid=False,
        drop=0.0,
        last=None,
        padding="same",
        **block,
    ):
        x = inputs = keras.Input((SIZE, SIZE, channels))
        skips = []
        for width in widths:
            for i in range(downs):
                x = conv(x, width, padding=padding, **block)
                x = L.Dropout(drop)(x) if drop and i == 0 else x
            skips.append(x)
            x = L.MaxPooling2D()(x)
        for _ in range(downs):
            x = conv(x, center, **block)
        for width, skip in zip(reversed(widths), reversed(skips), strict=True):
            if up == "transpose":
                x = L.Conv2DTranspose(width, 2, strides=2, padding="same")(x)
            else:
                x = L.UpSampling2D(interpolation="nearest" if up == "conv2" else up)(x)
                x = conv(x, width, 2) if up == "conv2" else x
            cut = (skip.shape[1] - x.shape[1]) // 2
            skip = L.Cropping2D(((cut, skip.shape[1] - x.shape[1] - cut),) * 2)(skip) if padding == "valid" else skip
            x = L.Concatenate()([x, skip] if up_first else [skip, x])
            for _ in range(ups):
                x = conv(x, width, **block)
        x = conv(x, last) if last else x
        x = L.Conv2D(out, 1, activation=end)(x)
        return keras.Model(inputs, L.Activation("sigmoid")(x) if sigmoid else x)

    def xception():
        x = inputs = keras.Input((SIZE, SIZE, 3))
        x = before = L.Activation("relu")(L.BatchNormalization()(L.Conv2D(8, 3, strides=2, padding="same")(x)))
        x = L.BatchNormalization()(L.SeparableConv2D(8, 3, padding="same")(L.Activation("relu")(x)))
        x = L.add([x, L.Conv2D(8, 1, padding="same")(before)])
        x = L.UpSampling2D(2)(L.BatchNormalization()(L.Conv2DTranspose(8, 3, padding="same")(x)))
        return keras.Model(inputs, L.Conv2D(3, 3, activation="softmax", padding="same")(x))

    def resnet_encoder():
        x = inputs = keras.Input((SIZE, SIZE, 3))
        first = L.Activation("relu")(L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(x)))
        x = L.MaxPooling2D()(first)
        y = L.Conv2D(4, 3, padding="same", use_bias=False)(L.Activation("relu")(L.BatchNormalization()(x)))
        x = L.Concatenate()([L.UpSampling2D()(L.Add()([x, y])), first])
        return keras.Model(
            inputs, L.Conv2D(1, 3, activation="sigmoid", padding="same")(conv(x, 4, norm=True, bias=False))
        )

    families = {
        "petrosgk (Carvana), the seed": unet(ups=3, norm=True),
        "ZFTurbo/ZF_UNET_224: [up, skip], dropout": unet(
            norm=True, drop=0.2, up_first=True, end="linear", sigmoid=True
        ),
        "jocicmarko (ultrasound), first version: gray, [up, skip]": unet(channels=1, up_first=True),
        "jocicmarko (ultrasound), later: transposed convolutions": unet(channels=1, up="transpose", up_first=True),
        "zhixuhao/unet": unet(channels=1, up="conv2", drop=0.5, last=2),
        "karolzak/keras-unet, vanilla": unet(up="transpose", drop=0.5, up_first=True),
        "karolzak/keras-unet, custom": unet(up="transpose", norm=True, order="conv-relu-norm", up_first=True),
        "pietz/unet-keras": unet(channels=1, up="conv2", drop=0.5),
        "keegil (Data Science Bowl 2018)": unet(activation="elu", up="transpose", drop=0.1, up_first=True),
        "jakeret/unet": unet(out=2, end="softmax", drop=0.2, up="transpose", padding="valid"),
        "keras.io, Oxford pets (U-Net Xception)": xception(),
        "qubvel/segmentation_models (residual encoder)": resnet_encoder(),
        "variant: no normalisation": unet(),
        "variant: three classes, linear end": unet(norm=True, out=3, end="linear"),
        "variant: ELU": unet(activation="elu"),
        "variant: [up, skip] with normalisation": unet(norm=True, up_first=True),
        "variant: bilinear up-sampling": unet(up="bilinear", norm=True),
        "variant: images of four channels": unet(channels=4, norm=True),
        "variant: normalisation and ReLU before convolutions": unet(order="norm-relu-conv", norm=True),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, model) in enumerate(families.items()):
        rng = np.random.default_rng(number)
        weights = zip(model.weights, model.get_weights(), strict=True)
        noise = [(v.path, w + rng.normal(0, 0.05, w.shape).astype(np.float32)) for v, w in weights]
        model.set_weights([np.abs(w) + 0.1 if "variance" in path else w for path, w in noise])
        image = rng.integers(0, 256, (1, SIZE, SIZE, model.input_shape[-1]), np.uint8)
        x = image.astype(np.float32) / 255
        # The last convolution is scaled, so that probabilities are of all sizes and tell differences.
        last = next(layer for layer in reversed(model.layers) if isinstance(layer, L.Conv2D))
        kernel, bias = last.get_weights()
        features = np.asarray(keras.Model(model.inputs, last.input).predict(x, verbose=0))
        spread = 2 / (features.std() * np.sqrt((kernel**2).sum(axis=(0, 1, 2))).max() + 1e-3)
        last.set_weights(
            [kernel * spread, bias - np.einsum("abcd,c->d", kernel * spread, features.mean(axis=(0, 1, 2)))]
        )
        probs = np.asarray(model.predict(x, verbose=0))
        probs = probs if probs.min() >= 0 and probs.max() <= 1 else 1 / (1 + np.exp(-probs))
        model.save(folder / f"{number:02d}.keras")
        model.save_weights(folder / f"{number:02d}.weights.h5")
        np.savez(folder / f"{number:02d}.npz", name=name, image=image, probs=probs)
        print(name, f"{probs.min():.3f} to {probs.max():.3f}")


def import_all(folder: Path) -> None:
    """Print a line of the table for each network in a folder."""
    import jax

    from unet_jax import InputError
    from unet_jax.interop import read_network
    from unet_jax.model import UNet

    print("| network | the whole model | bare weights |\n|---|---|---|")
    for arrays in sorted(folder.glob("*.npz")):
        with np.load(arrays) as data:
            name, image, probs = str(data["name"]), data["image"], data["probs"]
        cells = []
        for ending in ("keras", "weights.h5"):
            try:
                network = read_network(str(arrays.with_suffix(f".{ending}")), channels="rgb")
            except InputError as error:
                lines = str(error).splitlines()
                cells.append(f"refused: {(lines[1] if len(lines) > 1 else lines[0].split(': ', 1)[1]).strip()[:110]}")
                continue
            variables = {"params": network.params, "batch_stats": network.batch_stats}
            logits = UNet(network.config, network.num_classes).apply(variables, image / np.float32(255), False)
            largest = np.abs(np.asarray(jax.nn.sigmoid(np.asarray(logits))) - probs).max()
            cells.append(
                f"equal to {largest:.0e}" if largest < 1e-5 else f"differs by {largest:.2f}: `--check` says so"
            )
        print(f"| {name} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    {"save": save, "import": import_all}[sys.argv[1]](Path(sys.argv[2]))
