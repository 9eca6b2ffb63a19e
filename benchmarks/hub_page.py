"""The script of PyTorch Hub's MobileNetV2 page, with the weights in a local file.

    python benchmarks/hub_page.py PHOTO WEIGHTS CLASSES

https://pytorch.org/hub/pytorch_vision_mobilenet_v2: its lines in its order. Only where the page downloads does this
read files: the weights (``torch.hub.load(..., pretrained=True)`` there) and the class names.
"""

from __future__ import annotations

import sys

import torch
import torchvision

filename, weights, classes = sys.argv[1:]
model = torchvision.models.mobilenet_v2()
model.load_state_dict(torch.load(weights, weights_only=True))
model.eval()

from PIL import Image  # noqa: E402  # where the page has it
from torchvision import transforms  # noqa: E402

input_image = Image.open(filename)
preprocess = transforms.Compose([
    transforms.Resize(256),
    transforms.CenterCrop(224),
    transforms.ToTensor(),
    transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
])  # fmt: skip
input_tensor = preprocess(input_image)
input_batch = input_tensor.unsqueeze(0)  # create a mini-batch as expected by the model

# move the input and model to GPU for speed if available
if torch.cuda.is_available():
    input_batch = input_batch.to("cuda")
    model.to("cuda")

with torch.no_grad():
    output = model(input_batch)
# Tensor of shape 1000, with confidence scores over ImageNet's 1000 classes
print(output[0])
# The output has unnormalized scores. To get probabilities, you can run a softmax on it.
probabilities = torch.nn.functional.softmax(output[0], dim=0)
print(probabilities)

# Read the categories
with open(classes, encoding="utf-8") as f:  # noqa: PTH123  # as on the page
    categories = [s.strip() for s in f]
# Show top categories per image
top5_prob, top5_catid = torch.topk(probabilities, 5)
for i in range(top5_prob.size(0)):
    print(categories[top5_catid[i]], top5_prob[i].item())
