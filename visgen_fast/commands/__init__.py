"""The commands of `visgen-fast`, a file each."""
