#!/usr/bin/env python3
"""Checks vertices.json with implementations of DAG-CBOR, BLAKE3, CID, Ed25519 and ML-DSA that are not ours.

Promises: exit code 0 only when every case was rebuilt from its fields alone and agrees byte for byte.
Does not: use anything of this repository but the file.
"""

import json
import pathlib
import sys

import blake3
import dag_cbor
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from dilithium_py.ml_dsa import ML_DSA_65
from multiformats import CID

DOMAIN = b"qmesh vertex v1\0"
CASES_MIN = 12


def canonical(fields: dict) -> bytes:
    """The canonical form, built from the fields as the vectors' page describes it."""
    vertex = {key: value for key, value in fields.items() if key != "payload_hex"}
    vertex["payload"] = bytes.fromhex(fields["payload_hex"])
    vertex["parents"] = [CID.decode(parent) for parent in fields["parents"]]
    return dag_cbor.encode(vertex)


def verifies(algorithm: str, public_key: bytes, message: bytes, signature: bytes) -> bool:
    if algorithm == "ed25519":
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
            return True
        except InvalidSignature:
            return False
    if algorithm == "ml-dsa-65":
        return ML_DSA_65.verify(public_key, message, signature)
    raise ValueError(f"unknown algorithm {algorithm}")


def derived_public_key(algorithm: str, seed: bytes) -> bytes:
    if algorithm == "ed25519":
        return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return ML_DSA_65.key_derive(seed)[0]


def problems(case: dict) -> list[str]:
    found = []

    def equal(what: str, expected, actual) -> None:
        if expected != actual:
            found.append(f"{what}: the file says {expected!r}, rebuilt {actual!r}")

    encoded = canonical(case["fields"])
    digest = blake3.blake3(encoded).digest()
    equal("canonical_hex", case["canonical_hex"], encoded.hex())
    equal("id_hex", case["id_hex"], digest.hex())
    equal("cid", case["cid"], str(CID("base32", 1, "dag-cbor", bytes([0x1E, 32]) + digest)))
    equal("re-encoding", encoded, dag_cbor.encode(dag_cbor.decode(bytes.fromhex(case["canonical_hex"]))))
    if signature := case.get("signature"):
        algorithm = signature["algorithm"]
        public_key = bytes.fromhex(signature["public_key_hex"])
        signature_bytes = bytes.fromhex(signature["bytes_hex"])
        derived = derived_public_key(algorithm, bytes.fromhex(signature["seed_hex"]))
        equal("public_key_hex", public_key.hex(), derived.hex())
        equal("signature verifies", True, verifies(algorithm, public_key, DOMAIN + digest, signature_bytes))
        equal("signature of the bare id verifies", False, verifies(algorithm, public_key, digest, signature_bytes))
        bent = bytes([signature_bytes[0] ^ 1]) + signature_bytes[1:]
        equal("bent signature verifies", False, verifies(algorithm, public_key, DOMAIN + digest, bent))
    return found


def main() -> int:
    cases = json.loads(pathlib.Path(__file__).with_name("vertices.json").read_text())
    failed = 0
    for case in cases:
        found = problems(case)
        failed += bool(found)
        print("FAIL" if found else "ok  ", case["name"])
        for problem in found:
            print("    ", problem[:500])
    signed = {case["signature"]["algorithm"] for case in cases if "signature" in case}
    if len(cases) < CASES_MIN or signed != {"ed25519", "ml-dsa-65"}:
        print(f"FAIL the file has {len(cases)} cases, signed by {sorted(signed)}")
        failed += 1
    print(f"{len(cases)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
