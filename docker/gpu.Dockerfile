# unet_jax on NVIDIA GPUs (driver 580 or newer, for CUDA 13): docker build -f docker/gpu.Dockerfile -t unet_jax:gpu .
# docker run --rm --gpus all --user "$(id -u)" --shm-size 2g -v "$PWD:/work" unet_jax:gpu train default --data.root DATA --out RUN
FROM python:3.12-slim
# The CUDA libraries come as Python packages; only the driver is that of the host.
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md CITATION.cff ./
COPY unet_jax ./unet_jax
RUN pip install --no-cache-dir '.[gpu]'
# Files in mounted folders belong to whoever gives --user; caches go where anybody may write.
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache
WORKDIR /work
ENTRYPOINT ["unet-jax"]
CMD ["--help"]
