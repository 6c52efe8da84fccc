from unet_jax.cli.main import main

main()
