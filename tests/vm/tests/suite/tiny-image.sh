#!/bin/bash
# Makes an OCI image of this machine's own `sleep` and its libraries and imports it: pause image and pod image alike.
#   tiny-image NAME
set -euo pipefail
work=$(mktemp -d)
cd "$work"
mkdir -p root image/blobs/sha256
for file in /bin/sleep $(ldd /bin/sleep | grep -o '/[^ ]*'); do
    mkdir -p "root$(dirname "$file")"
    cp -L "$file" "root$file"
done
tar -C root -cf layer.tar .

# put FILE: moves it among the blobs; sets $digest and $size
put() {
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "image/blobs/sha256/$digest"
}
put layer.tar
layer=$digest layer_size=$size
printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/bin/sleep","infinity"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" >config
put config
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%d}]}' \
    "$digest" "$size" "$layer" "$layer_size" >manifest
put manifest
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%d,"annotations":{"io.containerd.image.name":"%s"}}]}' \
    "$digest" "$size" "$1" >image/index.json
printf '{"imageLayoutVersion":"1.0.0"}' >image/oci-layout
tar -C image -cf image.tar .
ctr --namespace k8s.io images import image.tar
rm -r "$work"
