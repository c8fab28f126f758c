#!/usr/bin/env bash
# The runs behind docs/results.md, on 2 CPU cores. Recipe and step counts are fixed here before anything is scored; the last
# checkpoint is scored, and nothing is chosen on the validation images.
#
#     LRSEGFORMER_DATA=path/to/data benchmarks/real_data.sh camvid none 1800 runs/camvid-baseline
#     LRSEGFORMER_DATA=path/to/data benchmarks/real_data.sh camvid stable_softplus 1800 runs/camvid-stable_softplus
#     LRSEGFORMER_DATA=path/to/data benchmarks/real_data.sh camvid <strategy> 120 runs/camvid-120-<strategy>
#     LRSEGFORMER_DATA=path/to/data benchmarks/real_data.sh camvid <strategy> 600 runs/<strategy>   # for scripts/robustness.py
#     LRSEGFORMER_DATA=path/to/data benchmarks/real_data.sh tiny_imagenet stable_softplus 2400 runs/tiny-stable_softplus
#     LRSEGFORMER_DATA=path/to/data benchmarks/real_data.sh tiny_imagenet_smoothed stable_softplus 1200 runs/tiny-smoothed
#
# The checkpoint is a stand-in for nvidia/mit-b0: a MiT-B0 trained for an hour on 190 other classes of Tiny-ImageNet.
set -euo pipefail

experiment=$1 strategy=$2 steps=$3 output=$4 extra=("${@:5}")
data=${LRSEGFORMER_DATA:?the folder that holds camvid, tiny_imagenet10 and standin-mit-b0}
shared=(--model_name_or_path "$data/standin-mit-b0" --strategy "$strategy" --max_steps "$steps" --output_dir "$output"
    --use_cpu --bf16 --seed 42 --eval_strategy no --save_steps 600 --save_total_limit 1 --warmup_steps 0.02 "${extra[@]}")

case $experiment in
camvid)
    python scripts/finetune_seg.py "${shared[@]}" \
        --train_images "$data/camvid/train" --train_masks "$data/camvid/trainannot" \
        --validation_images "$data/camvid/val" --validation_masks "$data/camvid/valannot" \
        --class_names Sky,Building,Pole,Road,Pavement,Tree,SignSymbol,Fence,Car,Pedestrian,Bicyclist --ignore_label 11 \
        --image_size 256 --eval_size 360 --total_batch_size 8 \
        --learning_rate 8e-4 --head_learning_rate_multiplier 2 --logging_steps 20
    ;;
tiny_imagenet)
    python scripts/finetune_cls.py "${shared[@]}" \
        --dataset "$data/tiny_imagenet10" --validation_split val \
        --image_size 64 --total_batch_size 32 --crop_area_min 0.35 \
        --learning_rate 5e-4 --head_learning_rate_multiplier 4 --weight_decay 0.05 --logging_steps 50
    ;;
tiny_imagenet_smoothed)
    # Written after tiny_imagenet had been scored and had overfitted: fewer and smaller steps, smaller crops, smoothed labels.
    python scripts/finetune_cls.py "${shared[@]}" \
        --dataset "$data/tiny_imagenet10" --validation_split val \
        --image_size 64 --total_batch_size 32 --crop_area_min 0.2 --label_smoothing_factor 0.1 \
        --learning_rate 3e-4 --head_learning_rate_multiplier 4 --weight_decay 0.05 --logging_steps 50
    ;;
*)
    echo "unknown experiment $experiment: camvid, tiny_imagenet or tiny_imagenet_smoothed" >&2
    exit 2
    ;;
esac
