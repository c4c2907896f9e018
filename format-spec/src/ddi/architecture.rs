//! Types of partitions: what they are, for which processor.

use crate::gpt::Guid;

/// What a partition of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The protected area, which is the file system.
    Data,
    /// Tree, parity and trailer.
    Verity,
    /// A signature of the root hash.
    Signature,
}

/// A processor that the root partitions of an image are for.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// As OCI images name it (`GOARCH`).
    pub oci: &'static str,
    /// As systemd names it, in names of partitions too.
    pub systemd: &'static str,
    data: Guid,
    verity: Guid,
    signature: Guid,
}

const fn row(
    oci: &'static str,
    systemd: &'static str,
    data: u128,
    verity: u128,
    signature: u128,
) -> Architecture {
    let (data, verity, signature) = (Guid::new(data), Guid::new(verity), Guid::new(signature));
    Architecture { oci, systemd, data, verity, signature }
}

/// As `systemd-id128 show` lists them: root, root-verity and root-verity-sig.
pub static ARCHITECTURES: [Architecture; 16] = [
    row(
        "arm",
        "arm",
        0x69dad710_2ce4_4e3c_b16c_21a1d49abed3,
        0x7386cdf2_203c_47a9_a498_f2ecce45a2d6,
        0x42b0455f_eb11_491d_98d3_56145ba9d037,
    ),
    row(
        "arm64",
        "arm64",
        0xb921b045_1df0_41c3_af44_4c6f280d3fae,
        0xdf3300ce_d69f_4c92_978c_9bfb0f38d820,
        0x6db69de6_29f4_4758_a7a5_962190f00ce3,
    ),
    row(
        "loong64",
        "loongarch64",
        0x77055800_792c_4f94_b39a_98c91b762bb6,
        0xf3393b22_e9af_4613_a948_9d3bfbd0c535,
        0x5afb67eb_ecc8_4f85_ae8e_ac1e7c50e7d0,
    ),
    row(
        "mips",
        "mips",
        0xe9434544_6e2c_47cc_bae2_12d6deafb44c,
        0x7a430799_f711_4c7e_8e5b_1d685bd48607,
        0xbba210a2_9c5d_45ee_9e87_ff2ccbd002d0,
    ),
    row(
        "mipsle",
        "mips-le",
        0x37c58c8a_d913_4156_a25f_48b1b64e07f0,
        0xd7d150d2_2a04_4a33_8f12_16651205ff7b,
        0xc919cc1f_4456_4eff_918c_f75e94525ca5,
    ),
    row(
        "mips64",
        "mips64",
        0xd113af76_80ef_41b4_bdb6_0cff4d3d4a25,
        0x579536f8_6a33_4055_a95a_df2d5e2c42a8,
        0x43ce94d4_0f3d_4999_8250_b9deafd98e6e,
    ),
    row(
        "mips64le",
        "mips64-le",
        0x700bda43_7a34_4507_b179_eeb93d7a7ca3,
        0x16b417f8_3e06_4f57_8dd2_9b5232f41aa6,
        0x904e58ef_5c65_4a31_9c57_6af5fc7c5de7,
    ),
    row(
        "ppc",
        "ppc",
        0x1de3f1ef_fa98_47b5_8dcd_4a860a654d78,
        0x98cfe649_1588_46dc_b2f0_add147424925,
        0x1b31b5aa_add9_463a_b2ed_bd467fc857e7,
    ),
    row(
        "ppc64",
        "ppc64",
        0x912ade1d_a839_4913_8964_a10eee08fbd2,
        0x9225a9a3_3c19_4d89_b4f6_eeff88f17631,
        0xf5e2c20c_45b2_4ffa_bce9_2a60737e1aaf,
    ),
    row(
        "ppc64le",
        "ppc64-le",
        0xc31c45e6_3f39_412e_80fb_4809c4980599,
        0x906bd944_4589_4aae_a4e4_dd983917446a,
        0xd4a236e7_e873_4c07_bf1d_bf6cf7f1c3c6,
    ),
    row(
        "riscv",
        "riscv32",
        0x60d5a7fe_8e7d_435c_b714_3dd8162144e1,
        0xae0253be_1167_4007_ac68_43926c14c5de,
        0x3a112a75_8729_4380_b4cf_764d79934448,
    ),
    row(
        "riscv64",
        "riscv64",
        0x72ec70a6_cf74_40e6_bd49_4bda08e8f224,
        0xb6ed5582_440b_4209_b8da_5ff7c419ea3d,
        0xefe0f087_ea8d_4469_821a_4c2a96a8386a,
    ),
    row(
        "s390",
        "s390",
        0x08a7acea_624c_4a20_91e8_6e0fa67d23f9,
        0x7ac63b47_b25c_463b_8df8_b4a94e6c90e1,
        0x3482388e_4254_435a_a241_766a065f9960,
    ),
    row(
        "s390x",
        "s390x",
        0x5eead9a9_fe09_4a1e_a1d7_520d00531306,
        0xb325bfbe_c7be_4ab8_8357_139e652d2f6b,
        0xc80187a5_73a3_491a_901a_017c3fa953e9,
    ),
    row(
        "386",
        "x86",
        0x44479540_f297_41b2_9af7_d131d5f0458a,
        0xd13c5d3b_b5d1_422a_b29f_9454fdc89d76,
        0x5996fc05_109c_48de_808b_23fa0830b676,
    ),
    row(
        "amd64",
        "x86-64",
        0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709,
        0x2c7357ed_ebd2_46d9_aec1_23d437ec2bf5,
        0x41092b05_9fc8_4523_994f_2def0408b176,
    ),
];

impl Architecture {
    /// The architecture that an OCI configuration names.
    #[must_use]
    pub fn by_oci_name(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.oci == name)
    }

    pub(super) fn role(&self, kind: Guid) -> Option<Role> {
        let kinds = [(self.data, Role::Data), (self.verity, Role::Verity), (self.signature, Role::Signature)];
        kinds.into_iter().find_map(|(own, role)| (own == kind).then_some(role))
    }

    pub(super) const fn kind(&self, role: Role) -> Guid {
        match role {
            Role::Data => self.data,
            Role::Verity => self.verity,
            Role::Signature => self.signature,
        }
    }

    /// The name that partitions get: systemd has no other use for it than to choose the newest of several.
    pub(super) fn partition_name(&self, role: Role) -> String {
        let suffix = match role {
            Role::Data => "",
            Role::Verity => "-verity",
            Role::Signature => "-verity-sig",
        };
        format!("root-{}{suffix}", self.systemd)
    }
}
