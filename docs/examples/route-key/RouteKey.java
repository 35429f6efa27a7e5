import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.List;

/** The key of a task's record in tasks.submitted. */
public final class RouteKey {

    private RouteKey() {}

    /** An empty session, role or model is none; messages are pairs of role and text. */
    public static String routeKey(String tenant, String session, String role, String model, List<String[]> messages)
            throws Exception {
        if (!session.isEmpty()) {
            return "s:" + tenant + "/" + session;
        }
        MessageDigest sha = MessageDigest.getInstance("SHA-256");
        for (String part : new String[] {tenant, role, model}) {
            add(sha, part);
        }
        for (String[] message : messages) {
            add(sha, message[0]);
            add(sha, message[1]);
        }
        return "p:" + HexFormat.of().formatHex(sha.digest()).substring(0, 32);
    }

    private static void add(MessageDigest sha, String part) {
        byte[] data = part.getBytes(StandardCharsets.UTF_8);
        sha.update(ByteBuffer.allocate(8).putLong(data.length).array());
        sha.update(data);
    }

    /** Arguments: tenant, session, role, model, then role and text of each message. */
    public static void main(String[] args) throws Exception {
        List<String[]> messages = new java.util.ArrayList<>();
        for (int i = 4; i + 1 < args.length; i += 2) {
            messages.add(new String[] {args[i], args[i + 1]});
        }
        System.out.println(routeKey(args[0], args[1], args[2], args[3], messages));
    }
}
