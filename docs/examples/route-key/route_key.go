// The key of a task's record in tasks.submitted. Arguments: tenant, session, role, model, then role and text of each
// message; an empty session, role or model is none.
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
)

func routeKey(tenant, session, role, model string, messages ...string) string {
	if session != "" {
		return "s:" + tenant + "/" + session
	}
	sha := sha256.New()
	for _, part := range append([]string{tenant, role, model}, messages...) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		sha.Write(length[:])
		sha.Write([]byte(part))
	}
	return "p:" + hex.EncodeToString(sha.Sum(nil))[:32]
}

func main() {
	a := os.Args[1:]
	fmt.Println(routeKey(a[0], a[1], a[2], a[3], a[4:]...))
}
