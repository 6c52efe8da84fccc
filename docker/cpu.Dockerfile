# unet_jax on a CPU: docker build -f docker/cpu.Dockerfile -t unet_jax .
# docker run --rm --user "$(id -u)" --shm-size 2g -v "$PWD:/work" unet_jax train small --data.root DATA --out RUN
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md CITATION.cff ./
COPY unet_jax ./unet_jax
RUN pip install --no-cache-dir .
# Files in mounted folders belong to whoever gives --user; caches go where anybody may write.
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache
WORKDIR /work
ENTRYPOINT ["unet-jax"]
CMD ["--help"]
