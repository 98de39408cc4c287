"""The model repository: its files, configurations and manifests; publishing, signing, rollback, pruning, inspection."""
