"""Every public name of the previous release can be imported, warns, and is the same object as the new name."""

import importlib
import re

import pytest

import xcit_dense
from xcit_dense import moved

# The public names of each module that has moved. These names are gone without a replacement:
# mm.checkpoint.load_state_dict replaced a function of MMEngine, cli.make_parser, make_device_parser and
# make_config_parser made parts of command lines, and lean.Redo was a type of arguments.
OLD = """
backbone: XCiT recompute_contexts
blocks: tokens_to_map map_to_tokens ConvPatchEmbed PositionalEncodingFourier LPI MLP XCABlock
checkpoint: STEM Report load_weights find read_weights infer_options check_held adapt_state_dict translate
    extract find_roots unwrap about
cli: LOCAL_RANKS add_data_root add_launcher choose_device
    add_own_data make_config set_local_rank find_checkpoint
convert: SUFFIXES convert_checkpoint save_weights
data.scene: FloatArray CLASSES MIN_SIZE MIN_VISIBLE MIN_AREA MIN_PART_AREA Instance Scene draw_scene parts
data.shapes: SEGMENTATION_CLASSES PALETTE FORMAT write_shapes
data_check: SAMPLE Fault Report check_coco check_labels
data_layout: IGNORED UNREADABLE PICTURE_SUFFIXES Split Layout find_coco find_labels files_in has_masks
    read_categories read_names read_values counts read_palette
deploy: Model ENCODINGS deploy
doctor: State MODULES Finding Environment examine abilities attempt_import run_backbone
download: STALL WAITS download
draw: Colour Pixels Box Instances make_palette ink_on draw_instances draw_label_map
errors: exit_with_sentence
files: whole absolute
lean: Gradients Product Convolution Pointwise product_dtype without_autocast run multiply
media: VIDEO_EXTENSIONS Medium find_media count_frames read_frames frame_rate VideoError FrameWriter
    write_picture
mm.browse: browse
mm.checkpoint: load_from_local load_from_http locate_once is_first_here unwrap_model
mm.checkpointing: INTERRUPTED STOPPING WholeCheckpointHook save_whole
mm.classes: read_classes
mm.config: OptionAction load_config check_config scale_rate
mm.data: LOADERS use_own_data describe_data check_data
mm.hooks: Series Curves read_curves draw_learning_curve LearningCurveHook CheckWeightsHook load_whole DeployHook
    ShortHistoryHook
mm.launch: make_runner check_launcher leave
mm.operators: install serving nms roi_align_forward roi_align_backward
mm.optim: auto_amp_optim_wrapper LayerDecayConstructor
mm.pictures: PicturesHook
mm.predict: OUTPUTS Fail Predictor Summary Frame join reserve run make_predictor read predict write
mm.progress: ProgressHook
mm.reproduce: ReproducibleHook seed_everything SeededSamples PlacedBatches
mm.samples: predicted_instances draw_truth
mm.strategies: is_xca_block shard_xca_blocks recompute XCiTFSDPStrategy
mm.tree: dicts_in datasets_in
norms: NormConfig NormLayer SyncBatchNorm synchronises make_norm_layer
progress: T is_first track tracked make_bar
pyramid: STRIDES MaxPool Level make_levels
results: Record make_categories make_results write_record read_records write_results
safe_load: read_file download_directory load_allowed
tables: show_table
variants: unknown_name
visualize: LARGEST PictureError Attention load_backbone visualize read_picture to_input observe pca_colours
    draw_levels draw_attention
work_dir: last_whole_checkpoint
xca: Form cheaper_form XCA
zoo: SCHEME TIMM Weights Family FAMILIES expand ZOO list_weights search_weights locate
"""
NAMES = {module: names.split() for module, names in re.findall(r"^([\w.]+):((?:.*\n(?:    .*\n)*))", OLD, re.MULTILINE)}


def test_the_list_names_every_module_that_has_moved():
    assert {*NAMES, "data"} == set(moved.MODULES)


@pytest.mark.parametrize("old", NAMES)
def test_an_old_name_warns_and_is_the_object_of_the_new_name(old):
    if old.startswith("mm."):
        pytest.importorskip("mmengine", reason="MMEngine is not installed")
        pytest.importorskip("mmcv", reason="mmcv is not installed")
        importlib.import_module("xcit_dense.mm")
    module = importlib.import_module(f"xcit_dense.{old}")
    for name in NAMES[old]:
        with pytest.warns(DeprecationWarning, match=rf"xcit_dense\.{old}\.{name} is now xcit_dense") as warned:
            value = getattr(module, name)
        new_module, new_name = re.search(r"is now ([\w.]+)\.(\w+);", str(warned[0].message)).groups()
        assert getattr(importlib.import_module(new_module), new_name) is value


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'xcit_dense\.zoo' has no attribute 'no_such_name'"):
        importlib.import_module("xcit_dense.zoo").no_such_name  # noqa: B018


def test_the_function_deploy_still_works_after_the_import_of_the_old_module_deploy(python):
    code = (
        "import xcit_dense, xcit_dense.deploy\nfrom xcit_dense.deploy import deploy\n"
        "model = xcit_dense.XCiT('nano_12_p16').eval()\n"
        "print(xcit_dense.deploy(model).deployed, deploy.__module__)"
    )
    assert python("-c", code).stdout.split() == ["True", "xcit_dense.inference.deploy"]


def test_serving_the_old_modules_twice_adds_one_importer():
    import sys

    moved.install()
    assert sum(getattr(finder, "serves", None) == "xcit_dense" for finder in sys.meta_path) == 1
    assert xcit_dense.__name__ == "xcit_dense"
