# SPDX-License-Identifier: Apache-2.0
"""The network: backbones turn an observation into a feature, heads turn a history of features into action chunks."""
