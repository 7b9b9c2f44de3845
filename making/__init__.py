"""Parts of `--mode=make_dataset`: surfaces of voxel grids, and making objects on all cores."""
