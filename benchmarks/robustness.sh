#!/usr/bin/env bash
# The robustness runs behind docs/results.md, on 2 CPU cores. Models, recipes, subsets, radii and steps are fixed here before anything
# is scored.
#
#     LRSEGFORMER_DATA=path/to/data benchmarks/robustness.sh train       # 8 models on CamVid, 2 on Tiny-ImageNet
#     LRSEGFORMER_DATA=path/to/data benchmarks/robustness.sh camvid      # all 26 frames: PGD, corruptions
#     LRSEGFORMER_DATA=path/to/data benchmarks/robustness.sh ensemble    # 4 frames: SEA and the other objectives
#     LRSEGFORMER_DATA=path/to/data benchmarks/robustness.sh tiny_imagenet
#
# Each bench can be stopped and started again. Two processes of one thread share the images of every cell.
set -euo pipefail

data=${LRSEGFORMER_DATA:?the folder that holds camvid, tiny_imagenet10 and standin-mit-b0}
strategies=(stable_softplus geometric_mean spectral_norm orthogonal jacobian_norm)
trained_both_ways=(runs/baseline runs/stable_softplus runs/baseline_adversarial runs/stable_softplus_adversarial)
classes=Sky,Building,Pole,Road,Pavement,Tree,SignSymbol,Fence,Car,Pedestrian,Bicyclist

bench() {
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 scripts/robustness.py "$@"
}

on_tiny_imagenet() {
    bench --models runs/tiny_baseline runs/tiny_stable_softplus --dataset "$data/tiny_imagenet10" --validation_split val "$@"
}

on_camvid() {
    bench --train_images "$data/camvid/train" --train_masks "$data/camvid/trainannot" \
        --validation_images "$data/camvid/val" --validation_masks "$data/camvid/valannot" \
        --class_names $classes --ignore_label 11 --batch_size 1 "$@"
}

case ${1:-} in
train)
    # float32: on a processor without bfloat16 instructions it is twice as fast as autocast.
    for strategy in none "${strategies[@]}"; do
        benchmarks/real_data.sh camvid "$strategy" 600 "runs/${strategy/none/baseline}" --bf16 False
    done
    for strategy in none stable_softplus; do
        benchmarks/real_data.sh camvid "$strategy" 600 "runs/${strategy/none/baseline}_adversarial" --bf16 False \
            --adversarial_steps 1 --adversarial_eps 2
    done
    for strategy in none stable_softplus; do
        benchmarks/real_data.sh tiny_imagenet "$strategy" 1200 "runs/tiny_${strategy/none/baseline}" --bf16 False
    done
    ;;
camvid)
    on_camvid --models runs/baseline "${strategies[@]/#/runs/}" runs/baseline_adversarial runs/stable_softplus_adversarial \
        --attacks pgd --steps 10 --eps 0.5 1 --corruptions common --severities 3 --output_dir reports/camvid
    ;;
ensemble)
    on_camvid --models "${trained_both_ways[@]}" --attacks pgd segpgd cospgd apgd sea --steps 10 --eps 1 \
        --max_eval_samples 4 --output_dir reports/camvid-ensemble
    ;;
tiny_imagenet)
    on_tiny_imagenet --max_eval_samples 100 --batch_size 50 --attacks pgd apgd --eps 0.5 1 --corruptions common --severities 3 --reliability \
        --output_dir reports/tiny_imagenet
    on_tiny_imagenet --max_eval_samples 16 --batch_size 8 --attacks pgd apgd autoattack --eps 2 \
        --output_dir reports/tiny_imagenet-autoattack
    on_tiny_imagenet --max_eval_samples 48 --batch_size 24 --attacks fmn --norm l2 --eps 0.1 0.25 0.5 1 \
        --output_dir reports/tiny_imagenet-l2
    ;;
*)
    echo "unknown run ${1:-}: train, camvid, ensemble or tiny_imagenet" >&2
    exit 2
    ;;
esac
