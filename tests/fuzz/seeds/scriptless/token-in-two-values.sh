#!/bin/bash
# In the shape that karpenter-provider-azure sends; the values are ours.
set -o allexport
echo "$(date),$(hostname)" > /var/log/azure/cluster-provision-cse-output.log;
for try in $(seq 1 3); do
if [ $try -eq 3 ]; then exit 100; else sleep 1; fi;
done;
ADMINUSER=azureuser
TENANT_ID=ten
SUBSCRIPTION_ID=sub
API_SERVER_NAME=api.example.com
KUBERNETES_VERSION=1.34.2
RESOURCE_GROUP=MC_rg
LOCATION=westeurope
VM_TYPE=standard
SUBNET=subnet
VIRTUAL_NETWORK=vnet
NETWORK_SECURITY_GROUP=
SERVICE_PRINCIPAL_CLIENT_ID="fuzzer.seedseedseed0123"cpu
SERVICE_PRINCIPAL_FILE_CONTENT="bXNp"
USER_ASSIGNED_IDENTITY_ID=kubelet-id
USE_MANAGED_IDENTITY_EXTENSION=false
LOAD_BALANCER_SKU=Standard
MAXIMUM_LOADBALANCER_RULE_COUNT=250
CLOUDPROVIDER_BACKOFF=true CLOUDPROVIDER_BACKOFF_MODE=v2 CLOUDPROVIDER_BACKOFF_EXPONENT=0
NETWORK_PLUGIN=none
NETWORK_POLICY=""
VNET_CNI_PLUGINS_URL=https://example.com/cni.tgz
KUBE_BINARY_URL=
GPU_NODE=true
CONFIG_GPU_DRIVER_IF_NEEDED=true
ENABLE_GPU_DEVICE_PLUGIN_IF_NEEDED=false
DISABLE_SSH="false"
ENABLE_UNATTENDED_UPGRADES="false"
SHOULD_CONFIG_SWAP_FILE="false"
SWAP_FILE_SIZE_MB="0"
OUTBOUND_COMMAND="curl -v https://example.com/"
TARGET_CLOUD="AzurePublicCloud"
IS_CUSTOM_CLOUD="false"
CSE_CONFIG_FILEPATH="/opt/azure/containers/provision_configs.sh"
SYSCTL_CONTENT="IyBha3MKbmV0LmNvcmUubWVzc2FnZV9idXJzdD04MAp2bS5zd2FwcGluZXNzID0gMTAKbmV0LmlwdjQudGNwX3R3X3JldXNlPTEK"
TLS_BOOTSTRAP_TOKEN="fuzzer.seedseedseed0123"cpu
KUBELET_FLAGS="--eviction-hard=memory.available<750Mi --max-pods=110 --cluster-dns=10.0.0.10 --register-with-taints=x=y:NoSchedule,s:NoExecute --cloud-provider=external"
KUBELET_NODE_LABELS="a=b,kubernetes.azure.com/azure-cni-overlay=true"
KUBE_CA_CRT="LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BQT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo="
ENABLE_IMDS_RESTRICTION=false
CSE_TIMEOUT=15m
/usr/bin/nohup /bin/bash -c "/bin/bash /opt/azure/containers/provision_start.sh"
