# Three images, installed as the README says. Light, to predict:
#   docker build --target predict --tag fusiform . && docker run --rm -v "$PWD:/data" fusiform predict /data/photo.jpg
# With PyTorch, to train, evaluate and export as well:
#   docker build --target training --tag fusiform-training .
# Light, a server (the stage that "docker build ." makes), of the models that are named behind it, if any are:
#   docker build --tag fusiform-serve . && docker run --rm --init -p 8000:8000 fusiform-serve
FROM python:3.12-slim AS predict
WORKDIR /fusiform
COPY pyproject.toml hatch_build.py requirements-predict.lock constraints.txt README.md LICENSE THIRD_PARTY.md ./
COPY src ./src
COPY examples ./examples
RUN python3 -m venv .venv && .venv/bin/pip install --require-hashes -r requirements-predict.lock \
 && .venv/bin/pip install --no-deps --no-build-isolation .
RUN .venv/bin/fusiform predict examples/cat.jpg
ENV PATH="/fusiform/.venv/bin:$PATH" FUSIFORM_CACHE="/tmp/fusiform"
USER nobody
WORKDIR /data
ENTRYPOINT ["fusiform"]
CMD ["--help"]

FROM predict AS training
USER root
WORKDIR /fusiform
RUN .venv/bin/pip install -c constraints.txt ".[train,onnx,detection]"
USER nobody
WORKDIR /data

FROM predict AS serve
USER root
WORKDIR /fusiform
RUN .venv/bin/pip install -c constraints.txt ".[serve]"
USER nobody
WORKDIR /data
EXPOSE 8000
CMD ["serve", "mobilenet_v2", "--host", "0.0.0.0"]
