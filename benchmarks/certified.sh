#!/usr/bin/env bash
# Certified networks on real images (docs/results.md): train, certify, attack the certificates.
#
#     LRSEGFORMER_DATA=path/to/data benchmarks/certified.sh camvid          # train on CamVid: 7000 steps of 4 whole frames
#     LRSEGFORMER_DATA=path/to/data benchmarks/certified.sh tiny_imagenet   # train on ten classes of Tiny-ImageNet
#     LRSEGFORMER_DATA=path/to/data benchmarks/certified.sh certify         # certificates of both, PGD at the same radii
#     LRSEGFORMER_DATA=path/to/data benchmarks/certified.sh attack          # attacks that try to flip certified pixels
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1
data=${LRSEGFORMER_DATA:?the folder that holds camvid and tiny_imagenet10}
camvid_validation=(--validation_images "$data/camvid/val" --validation_masks "$data/camvid/valannot" --ignore_label 11
    --class_names sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist)
certified=(--architecture small --strategy orthogonal --scope certified)

case ${1:?camvid, tiny_imagenet, certify or attack} in
camvid)
    python scripts/finetune_seg.py "${certified[@]}" --patch_stride 8 --position_grid 12,16 --whole_images \
        --train_images "$data/camvid/train" --train_masks "$data/camvid/trainannot" "${camvid_validation[@]}" \
        --eval_size 360 --scale_min 1 --scale_max 1 --colour_distortion 0.3 --certified_radius 36 \
        --learning_rate 5e-3 --max_steps 7000 --total_batch_size 4 --output_dir runs/certified-camvid
    ;;
tiny_imagenet)
    python scripts/finetune_cls.py "${certified[@]}" --dataset "$data/tiny_imagenet10" --validation_split val \
        --image_size 64 --crop_area_min 0.35 --max_steps 3000 --total_batch_size 64 \
        --output_dir runs/certified-tiny_imagenet
    ;;
certify)
    python scripts/certify.py --model runs/certified-camvid "${camvid_validation[@]}" \
        --radii 18/255 36/255 72/255 108/255 --norms l2 per_pixel_l2 --per_pixel_radii 0.5/255 1/255 \
        --attacks pgd --steps 10 --batch_size 1 --output_dir reports/certified-camvid
    python scripts/certify.py --model runs/certified-tiny_imagenet --dataset "$data/tiny_imagenet10" \
        --validation_split val --max_eval_samples 250 --radii 18/255 36/255 72/255 108/255 \
        --norms l2 per_pixel_l2 --per_pixel_radii 0.5/255 1/255 --attacks pgd apgd --steps 20 \
        --output_dir reports/certified-tiny_imagenet
    ;;
attack)
    python benchmarks/certificate_attacks.py --models runs/certified-camvid "${camvid_validation[@]}" \
        --radii 36/255 --per_pixel_radii 0.5/255 --max_eval_samples 8 --json reports/certificate_attacks.json
    ;;
*)
    echo "unknown experiment $1: camvid, tiny_imagenet, certify or attack" >&2
    exit 2
    ;;
esac
