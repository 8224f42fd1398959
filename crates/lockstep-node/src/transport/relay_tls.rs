//! How a relay proves its node id: with a certificate that it has signed itself, by its ed25519
//! key, over TLS 1.3.
//!
//! No authority vouches for a relay and no name is looked up: whoever uses a relay knows its key.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use iroh::tls::CaTlsConfig;
use lockstep_verify::sign::NodeId;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use zeroize::Zeroizing;

use super::{Identity, Relay};

/// An ed25519 secret key as PKCS #8 (RFC 8410, section 7): what comes before its 32 bytes.
const PKCS8_OF_ED25519: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// An ed25519 public key in a certificate (RFC 8410, section 4): what comes before its 32 bytes.
const SPKI_OF_ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Returns the TLS of a relay that has this identity.
///
/// # Errors
/// What the library says of a key or a certificate that it can't use.
pub(crate) fn server_config(identity: &Identity) -> io::Result<ServerConfig> {
    let seed = identity.seed();
    let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_OF_ED25519.len() + seed.len()));
    der.extend_from_slice(&PKCS8_OF_ED25519);
    der.extend_from_slice(&*seed);
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(der.as_slice()));
    let key = key.map_err(io::Error::other)?;
    let certificate = CertificateParams::new([]).and_then(|params| params.self_signed(&key));
    let certificate = certificate.map_err(io::Error::other)?.der().clone();
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec()));
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate], secret))
        .map_err(io::Error::other)
}

/// Returns the TLS of a node that uses these relays, and trusts nobody else.
pub(super) fn trusting(relays: &[Relay]) -> CaTlsConfig {
    let relays = relays.to_vec();
    CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider| {
        Ok(Arc::new(Verifier { relays: relays.clone(), provider }))
    }))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Believes that a relay is at the other end if it holds the key after which the relay is named.
#[derive(Debug)]
struct Verifier {
    relays: Vec<Relay>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn is_one(&self, ip: IpAddr, id: &NodeId) -> bool {
        self.relays.iter().any(|relay| relay.addr.ip() == ip && relay.id == *id)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ServerName::IpAddress(ip) = name else {
            return Err(CertificateError::NotValidForName.into());
        };
        let certificate = webpki::EndEntityCert::try_from(certificate)
            .map_err(|_| Error::from(CertificateError::BadEncoding))?;
        let spki = certificate.subject_public_key_info();
        let key = spki.strip_prefix(&SPKI_OF_ED25519).and_then(|key| key.try_into().ok());
        match key.map(NodeId) {
            Some(id) if self.is_one(IpAddr::from(*ip), &id) => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
