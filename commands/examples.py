"""Two examples for the help of each command."""

from __future__ import annotations

EXAMPLES = {
    "prepare": ("samdiff prepare samples -o data/samples.zarr", "samdiff prepare photos/ --points-per-side 16 --dry-run"),
    "masks": ("samdiff masks photo.jpg --records photo.json", "samdiff masks photos/ -o drawings/ --sam vit_b"),
    "info": ("samdiff info data/samples.zarr", "samdiff info s3://bucket/div2k.zarr"),
    "verify": ("samdiff verify data/samples.zarr", "samdiff verify --deep data/samples.zarr"),
    "export": (
        "samdiff export data/samples.zarr -o samples.h5 --to hdf5",
        "samdiff export data/samples.zarr -o samples/ --to folder",
    ),
    "train": (
        "samdiff train data/samples.zarr --preset tiny --amp bf16",
        "samdiff train data/samples.zarr --init-from shipped --steps 2000 --train.lr 1e-5",
    ),
    "distill": (
        "samdiff distill shipped --store data/samples.zarr -o runs/student",
        "samdiff distill runs/df2k-paper --store data/df2k.zarr --student.samples 8 --amp bf16",
    ),
    "infer": ("samdiff infer photo.jpg", "samdiff infer photos/ -o large/ --checkpoint runs/samples-tiny --steps 25"),
    "evaluate": (
        "samdiff evaluate --benchmark data/Set5 --checkpoint shipped",
        "samdiff evaluate --benchmark data/Set5 --benchmark data/Urban100 --seeds 3 --metrics lpips",
    ),
    "compare": (
        "samdiff compare a.png b.png --reference hr.png",
        "samdiff compare a.png b.png --crop 10,20,64,64 -o sheet.png",
    ),
    "study": (
        "samdiff study benchmarks/studies/structure.toml --workers 2",
        "samdiff study benchmarks/studies/structure.toml --report",
    ),
    "report": (
        "samdiff report data/samples.zarr runs/samples-tiny evaluation",
        "samdiff report data/samples.zarr -o samples.html --images 1000",
    ),
    "export-model": (
        "samdiff export-model --checkpoint runs/samples-tiny",
        "samdiff export-model --checkpoint shipped -o onnx/",
    ),
    "download": ("samdiff download", "samdiff download div2k-valid"),
    "weights": ("samdiff weights mobile_sam", "samdiff weights vit_b --source official"),
    "import-checkpoint": (
        "samdiff import-checkpoint sam_diffsr_df2k4x.ckpt",
        "samdiff import-checkpoint srdiff.ckpt --modulation none -o srdiff.safetensors",
    ),
    "publish": (
        "samdiff publish runs/samples-tiny -o model.safetensors --licence CC0-1.0",
        "samdiff publish runs/df2k-paper -o model.safetensors --licence CC-BY-4.0 --no-half",
    ),
    "demo": ("samdiff demo", "samdiff demo --folder /tmp/demo --steps 1000"),
}


def epilog_of(name: str) -> str:
    """The examples at the end of the help of a command."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name])
