"""What `--mode=make_dataset` is made of besides `synthetic` and `writers`: voxel grids as shapes, and all cores."""
