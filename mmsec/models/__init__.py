"""Backbones, necks and what they are made of, registered in :data:`mmsec.registry.MODELS`."""

from mmsec.models.backbones.clustr import ClusTR
from mmsec.models.backbones.secvit import SecViT
from mmsec.models.backbones.semantic_clusters import SemanticClusters
from mmsec.models.backbones.vit import ViT
from mmsec.models.necks.pooled_projection import PooledProjection
from mmsec.models.necks.simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ['ClusTR', 'PooledProjection', 'SecViT', 'SemanticClusters', 'SimpleFeaturePyramid', 'ViT']
