from unet_jax.cli import main

main()
