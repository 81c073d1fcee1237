"""What every network here is: preprocessing, backbone and head in one graph.

Backbones speak timm's protocol: `forward_features` gives what the network sees, a feature
map or tokens, and `forward_head(features, pre_logits=True)` pools it to one vector.
"""

from __future__ import annotations

from torch import Tensor, nn

from leuk_ray.models.preprocess import Preprocess
from leuk_ray.models.settings import Views
from leuk_ray.models.views import mean_of_views, views_of


class LinearHead(nn.Module):
    """Dropout and a linear classifier on the pooled features, which are the embedding."""

    def __init__(self, features: int, num_logits: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_logits)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) -> logits (N, num_logits), embedding (N, D)."""
        return self.classifier(self.dropout(pooled)), pooled


class ImageClassifier(nn.Module):
    """Preprocessing, backbone and head.

    own_pooling: the backbone pools; otherwise the head takes the feature map.
    views: in eval mode, over which flips and quarter turns of an image outputs are averaged.
    feature_map: passes the backbone's features on; a place for hooks.
    """

    def __init__(
        self, preprocess: Preprocess, backbone: nn.Module, head: nn.Module, *, own_pooling: bool
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.backbone = backbone
        self.feature_map = nn.Identity()
        self.head = head
        self.own_pooling = own_pooling
        self.views: Views = "one"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W), uint8 or float in 0..255 -> outputs, embedding (N, D).

        The outputs are (N, K) logits of a softmax over K classes, or (N, 1) of a sigmoid for the
        second of two: see `zoo.class_logits`.
        """
        views: Views = "one" if self.training else self.views
        inputs = views_of(self.preprocess(images), views)
        features = self.backbone.forward_features(inputs)  # pyright: ignore[reportCallIssue]
        features = self.feature_map(features)
        if self.own_pooling:
            features = self.backbone.forward_head(features, pre_logits=True)  # pyright: ignore[reportCallIssue]
        outputs, embedding = self.head(features)
        return mean_of_views(outputs, views), mean_of_views(embedding, views)
