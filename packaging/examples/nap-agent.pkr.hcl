# Packer, azure-arm: a VM of a base image gets nap-agent, is baked, checked and generalized while it runs.
#   packer build -var subscription_id=... -var node_class=nodeclass.yaml packaging/examples/nap-agent.pkr.hcl
# nap-image-builder and the deb come from `make release`; nothing of them is left in the image but what the package installs.

packer {
  required_plugins {
    azure = {
      source  = "github.com/hashicorp/azure"
      version = "~> 2"
    }
  }
}

variable "subscription_id" { type = string }
variable "resource_group" { type = string }
variable "location" { default = "westeurope" }
variable "node_class" { type = string }
variable "kubernetes_version" { default = "1.34.2" }
variable "deb" { default = "target/release-0.1.0/nap-agent_0.1.0_amd64.deb" }
variable "builder" { default = "target/release/nap-image-builder" }

source "azure-arm" "node" {
  use_azure_cli_auth                = true
  subscription_id                   = var.subscription_id
  location                          = var.location
  vm_size                           = "Standard_D2s_v5"
  os_type                           = "Linux"
  image_publisher                   = "canonical"
  image_offer                       = "ubuntu-24_04-lts"
  image_sku                         = "server"
  managed_image_name                = "nap-node-${var.kubernetes_version}"
  managed_image_resource_group_name = var.resource_group
}

build {
  sources = ["source.azure-arm.node"]

  provisioner "file" {
    sources     = [var.deb, var.builder, var.node_class]
    destination = "/tmp/"
  }

  # Your own steps that install kubelet, containerd, runc and the CNI plugins go before this one.
  provisioner "shell" {
    execute_command = "sudo sh -eux {{ .Path }}"
    inline = [
      "apt-get install -y /tmp/${basename(var.deb)}",
      "chmod +x /tmp/nap-image-builder",
      "/tmp/nap-image-builder bake --root /",
      "/tmp/nap-image-builder check --root / --node-class /tmp/${basename(var.node_class)} --kubernetes-version ${var.kubernetes_version}",
    ]
  }

  # Last: what belongs to this VM goes, its provisioning user too.
  provisioner "shell" {
    execute_command = "sudo sh -eux {{ .Path }}"
    inline = [
      "/tmp/nap-image-builder generalize --root /",
      "rm -f /tmp/nap-image-builder /tmp/*.deb /tmp/*.yaml",
      "/usr/sbin/waagent -force -deprovision+user && sync",
    ]
  }
}
