"""`--mode=make_dataset`: writes datasets in the published layouts, from built-in shapes, meshes or voxel grids."""
import synthetic
from datasets import DATASETS, DEFAULT
from engine.arguments import Mode, integer, need


def run(options, _device):
    """Make the dataset, or complete an unfinished one; returns the exit code."""
    if options.layout != DEFAULT:
        need(options, "data_dir")
    folder = options.data_dir or synthetic.FOLDER
    if options.mesh_dir:
        synthetic.make_from_meshes(folder, options.mesh_dir, options.up, options.data_seed, options.train_views,
                                   options.layout, options.skip_bad, options.class_ids, options.front,
                                   options.split_file,
                                   options.grid_surface, options.voxels, options.workers, options.colors,
                                   options.light, options.background)
    else:
        synthetic.make_synthetic(folder, options.class_ids or list(synthetic.MAIN_CLASSES), options.n_train,
                                 options.n_val, options.n_test, options.train_views, options.palette,
                                 options.data_seed, options.layout, options.workers, options.light,
                                 options.background, options.skip_bad)
    return 0


MODE = Mode(run, "writes a dataset in a published layout, from built-in shapes or from MESH_DIR", options={
    "mesh_dir": dict(metavar="DIR", help=(
        "meshes (OBJ, OFF, PLY, STL, GLB) and voxel grids (BINVOX, NPY, NPZ), one subfolder per class; without it, the "
        "built-in shapes")),
    "up": dict(choices=("x", "y", "z", "-x", "-y", "-z"), default="y", help="up axis of the meshes"),
    "front": dict(choices=[sign + axis for axis in "xyz" for sign in "+-"], metavar="AXIS", help=(
        "axis of the files to which the front of the objects points, +x ... -z (default: +z; with --up=z: -y, with "
        "--up=-z: +y)")),
    "grid_surface": dict(choices=("smooth", "cubes"), default="smooth", help=(
        "surface of voxel grids: smooth: marching cubes and slight smoothing; cubes: the cells as cubes")),
    "voxels": dict(choices=("given", "surface"), help=(
        "voxels of objects that are grids of 32^3 cells: given: the grid itself; surface: its surface, voxelised like "
        f"a mesh (default: given; in other layouts than {DEFAULT}: surface)")),
    "colors": dict(choices=("own", "grey"), default="own", help=(
        "own: meshes have the colours of their materials, pictures, vertices and faces; grey: all are grey")),
    "workers": dict(type=integer(1), metavar="N", help="number of processes (default: one per core)"),
    "layout": dict(choices=[name for name, dataset in DATASETS.items() if dataset.writer], default=DEFAULT,
                   help="layout of the files"),
    **synthetic.AROUND,
    **synthetic.EMBEDDED})
