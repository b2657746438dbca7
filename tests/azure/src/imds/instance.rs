//! What the service says about the VM.

/// A VM as the control plane knows it. The default is a small VM in eastus2 with one network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The VM's name, also its computer name.
    pub name: String,
    /// The VM's id; equal to the machine's DMI product UUID.
    pub vm_id: String,
    /// The region.
    pub location: String,
    /// The zone in the region; empty without zones.
    pub zone: String,
    /// The size.
    pub vm_size: String,
    /// The subscription's id.
    pub subscription_id: String,
    /// The resource group.
    pub resource_group: String,
    /// The scale set's name; empty for a VM of its own.
    pub scale_set_name: String,
    /// `Spot`, `Regular` or empty.
    pub priority: String,
    /// `Delete`, `Deallocate` or empty.
    pub eviction_policy: String,
    /// The administrator's user name.
    pub admin_username: String,
    /// The administrator's public keys.
    pub public_keys: Vec<String>,
    /// The image: publisher, offer, sku, version.
    pub image: [String; 4],
    /// `TrustedLaunch`, `ConfidentialVM` or empty.
    pub security_type: String,
    /// Names and values.
    pub tags: Vec<(String, String)>,
    /// User data before base64; empty for none.
    pub user_data: Vec<u8>,
    /// Custom data before base64; empty for none. Says whether there is some; served only by `serve_custom_data`.
    pub custom_data: Vec<u8>,
    /// The temporary disk's size in the service's own unit; 0 for none.
    pub resource_disk_size: u64,
    /// Whether the OS disk is ephemeral.
    pub ephemeral_os_disk: bool,
    /// Attached remote data disks.
    pub data_disks: Vec<DataDisk>,
    /// Network interfaces.
    pub interfaces: Vec<Interface>,
    /// `None`, `PreprovisionedOSDisk`, `Running`, `Savable` or `Unknown`.
    pub pps_type: String,
}

/// A remote data disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDisk {
    /// The logical unit number.
    pub lun: u32,
    /// The disk's name.
    pub name: String,
    /// The size in GiB.
    pub size_gib: u64,
    /// `Premium_LRS`, `StandardSSD_LRS`, …
    pub storage_account_type: String,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Upper-case hexadecimal digits without separators.
    pub mac_address: String,
    /// Private IPv4 addresses, the primary one first.
    pub private_ipv4: Vec<String>,
    /// The subnet: address and prefix length.
    pub subnet: (String, u8),
}

impl Default for Instance {
    fn default() -> Self {
        let image = ["canonical", "ubuntu-24_04-lts", "server", "24.04.202510010"].map(str::to_owned);
        Self {
            name: "aks-default-0".to_owned(),
            vm_id: "12345678-90ab-cdef-1234-567890abcdef".to_owned(),
            location: "eastus2".to_owned(),
            zone: "1".to_owned(),
            vm_size: "Standard_D2ds_v5".to_owned(),
            subscription_id: "12345678-90ab-cdef-1234-567890abcdef".to_owned(),
            resource_group: "mc_test-rg".to_owned(),
            scale_set_name: String::new(),
            priority: String::new(),
            eviction_policy: String::new(),
            admin_username: "azureuser".to_owned(),
            public_keys: Vec::new(),
            image,
            security_type: String::new(),
            tags: Vec::new(),
            user_data: Vec::new(),
            custom_data: Vec::new(),
            resource_disk_size: 105_728,
            ephemeral_os_disk: false,
            data_disks: Vec::new(),
            interfaces: vec![Interface::default()],
            pps_type: "None".to_owned(),
        }
    }
}

impl Default for Interface {
    fn default() -> Self {
        let subnet = ("10.0.0.0".to_owned(), 16);
        Self { mac_address: "000D3A123456".to_owned(), private_ipv4: vec!["10.0.0.4".to_owned()], subnet }
    }
}
