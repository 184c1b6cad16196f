"""``python -m calo4pqvae`` is the command ``calo4pqvae``; so ``torchrun -m calo4pqvae`` is, too."""

from calo4pqvae.cli.main import main

if __name__ == "__main__":
    main()
